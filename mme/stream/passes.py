"""The passes over chunks: one where levels may be numbered as they are met, otherwise two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from ..engine.equations.assembly import resembles
from ..engine.equations.sums import Sums
from ..engine.runtime.parallel import single_threaded_blas
from ..exceptions import DataError
from .numbering import LevelNumbers, Numbers, TypeChanged
from .products import Products
from .recipe import Recipe
from .sources import watched
from .survey import Request, Survey, warn_of_missing

__all__ = ["collect"]

_HEAD = 16_384  # rows from which the basis of a single pass is made


def collect(
    request: Request,
    chunks: Iterable[object],
    levels: Mapping[str, object] | None = None,
    progress: bool | None = None,
) -> Products:
    """Sums over chunks.

    Where all columns left of the bars are numbers, one pass numbers the levels of the grouping factors as
    they are met and adds up in a basis of the first rows; if these were unlike the others, the rows are added
    up once more. Otherwise levels are found in a pass of their own.

    Parameters
    ----------
    request : Request
    chunks : iterable
        That can be begun again.
    levels : mapping, optional
        Levels of columns that are known beforehand.
    progress : bool, optional
        A bar of the rows of every pass; None: on a terminal, once it has taken a while.

    Returns
    -------
    Products

    Raises
    ------
    DataError
        The second pass sees other rows than the first.

    Warns
    -----
    MissingDataWarning
    """
    with single_threaded_blas():
        survey, recipe, sums = (
            _one_pass(request, watched(chunks, progress)) if not levels else (None, None, None)
        )
        if survey is None:
            survey = Survey(request)
            for chunk in watched(chunks, progress):
                survey.add(chunk)
        if recipe is None:
            recipe = Recipe.of(survey, levels)
        warn_of_missing(request, survey.dropped, survey.n)
        if sums is None:
            sums = recipe.zero(recipe.basis(survey.sample()))
            for chunk in watched(chunks, progress, "second pass"):
                coded = recipe.code(chunk)
                if coded is not None:
                    coded.add_to(sums)
    if sums.n != survey.n:
        raise DataError(
            f"the chunks had {survey.n} rows to use in the first pass and {sums.n} in the second: they must "
            "begin again from the first row, with the same rows."
        )
    return Products(recipe, sums, survey.dropped, survey.given)


def _one_pass(request: Request, chunks: Iterable[object]) -> tuple[Survey | None, Recipe | None, Sums | None]:
    """What a pass found: without sums where levels must be known first, or where digits were lost."""
    survey = Survey(request)
    head = []
    coming = iter(chunks)
    for chunk in coming:
        rows = survey.add(chunk)
        if rows is not None:
            head.append(rows)
        if survey.n >= _HEAD:
            break
    else:
        # few rows: their levels are known now
        return survey, None, None
    if survey.coded:
        for chunk in coming:
            survey.add(chunk)
        return survey, None, None
    first = Recipe.of(survey)
    numbers: Numbers = {columns: LevelNumbers(columns) for columns in first.group_columns}
    sums = Sums.zero(first.basis(survey.sample()), first.groups, [0] * len(first.groups), more=True)
    try:
        for rows in head:
            _add(first, rows, numbers, sums)
        head.clear()
        for chunk in coming:
            rows = survey.add(chunk, levels=False)
            if rows is not None:
                _add(first, rows, numbers, sums)
    except TypeChanged:
        return None, None, None
    found = {columns: own.table() for columns, own in numbers.items()}
    recipe = Recipe.of(survey, numbered={columns: table for columns, (table, _) in found.items()})
    if not resembles(sums):
        return survey, recipe, None
    places = [found[columns][1] for columns in recipe.group_columns]
    return survey, recipe, sums.placed(places, recipe.n_levels)


def _add(recipe: Recipe, rows: pd.DataFrame, numbers: Numbers, sums: Sums) -> None:
    coded = recipe.code_rows(rows, numbers)
    n_levels = [numbers[columns].n_levels for columns in recipe.group_columns]
    if any(q > len(block.table) for q, block in zip(n_levels, sums.blocks, strict=True)):
        recipe.check_memory(n_levels)
        sums.grow(n_levels)
    coded.add_to(sums)
