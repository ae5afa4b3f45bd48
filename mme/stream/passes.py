"""The passes over chunks: one where levels may be numbered as they are met, otherwise two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

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
            with _Behind() as behind:
                for chunk in watched(chunks, progress, "second pass"):
                    coded = recipe.code(chunk)
                    if coded is not None:
                        behind.do(partial(coded.add_to, sums))
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
        with _Behind() as behind:
            for rows in head:
                behind.do(_adding(first, rows, numbers, sums))
            head.clear()
            for chunk in coming:
                rows = survey.add(chunk, levels=False)
                if rows is not None:
                    behind.do(_adding(first, rows, numbers, sums))
    except TypeChanged:
        return None, None, None
    found = {columns: own.table() for columns, own in numbers.items()}
    recipe = Recipe.of(survey, numbered={columns: table for columns, (table, _) in found.items()})
    if not resembles(sums):
        return survey, recipe, None
    places = [found[columns][1] for columns in recipe.group_columns]
    return survey, recipe, sums.placed(places, recipe.n_levels)


def _adding(recipe: Recipe, rows: pd.DataFrame, numbers: Numbers, sums: Sums) -> Callable[[], None]:
    """Rows coded, and what adds them up."""
    coded = recipe.code_rows(rows, numbers)
    n_levels = [numbers[columns].n_levels for columns in recipe.group_columns]

    def add() -> None:
        if any(q > len(block.table) for q, block in zip(n_levels, sums.blocks, strict=True)):
            recipe.check_memory(n_levels)
            sums.grow(n_levels)
        coded.add_to(sums)

    return add


class _Behind:
    """A thread that adds up a chunk while the next one is read and coded."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mme-stream")
        self._last: Future | None = None

    def do(self, work: Callable[[], None]) -> None:
        """Begin work, once that before is done; what that raised is raised here."""
        self._wait()
        self._last = self._pool.submit(self._run, work)

    @staticmethod
    def _run(work: Callable[[], None]) -> None:
        with single_threaded_blas():
            work()

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()
