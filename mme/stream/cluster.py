"""Frames of Dask: their partitions summed where they are, the sums added in a tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import pandas as pd

from ..engine.runtime.parallel import n_threads
from ..formula.scope import Scope
from .passes import collect
from .products import Products
from .sources import columns_of, is_cluster_frame, is_source, source_of
from .survey import NoRows, Request, categorical_names, model_columns, warn_of_missing
from .tables import Levels

__all__ = ["delayed_look", "delayed_products", "gather"]

_TOGETHER = 8  # sums that one task of the tree adds up


def gather(
    request: Request,
    data: object,
    levels: Mapping[str, object] | None = None,
    progress: bool | None = None,
) -> Products:
    """Sums of anything that `mme.lmer` takes as a source of rows, or of one frame.

    Parameters
    ----------
    request : Request
    data : object
    levels, progress
        As in `mme.stream.passes.collect`; a cluster has its own bars.

    Raises
    ------
    DataError
    """
    if not is_cluster_frame(data):
        return collect(request, source_of(data, request) if is_source(data) else [data], levels, progress)
    products: Products = delayed_products(request, data, levels).compute()
    warn_of_missing(request, products.dropped, products.sums.n)
    return replace(products, recipe=replace(products.recipe, request=request))


def delayed_products(
    request: Request,
    data: Any,
    levels: Mapping[str, object] | None = None,
    finish: Callable[[Products], object] | None = None,
) -> Any:
    """The sums of a frame of Dask, not computed yet.

    Parameters
    ----------
    request : Request
    data : dask.dataframe.DataFrame
    levels : mapping, optional
        Levels of columns coded by levels; those that are not given are found by a map of their own, at once.
    finish : callable (Products) -> object, optional
        What to make of the sums, on a worker.

    Returns
    -------
    dask.delayed.Delayed
    """
    import dask

    names = columns_of(request, [str(name) for name in data.columns])
    chosen = data[names] if names else data
    request = _portable(request, chosen._meta)
    parts = chosen.to_delayed()
    known = dict(levels or {})
    asked = sorted(_coded(request, chosen._meta) - set(known))
    if asked:
        find = dask.delayed(_levels_of, pure=False)
        join = dask.delayed(_joined_levels, pure=False)
        found = _tree([find(request, part, asked) for part in parts], join).compute()
        known |= {name: own.table().rows[name] for name, own in found.items()}
    add = dask.delayed(_sums_of, pure=False)
    total = _tree([add(request, part, known) for part in parts], dask.delayed(_merged, pure=False))
    return dask.delayed(_finished, pure=False)(total, finish)


def delayed_look(
    request: Request, data: Any, look: Callable[[Request, pd.DataFrame], dict[str, Any]]
) -> tuple[dict[str, Any], int, int]:
    """What a look at one partition finds, where it is; threads of all workers; partitions.

    Partitions without rows are passed over.
    """
    import dask

    names = columns_of(request, [str(name) for name in data.columns])
    chosen = data[names] if names else data
    portable = _portable(request, chosen._meta)
    parts = chosen.to_delayed()
    found: dict[str, Any] = {}
    for part in parts:
        found = dask.delayed(_looked, pure=False)(look, portable, part).compute()
        if found:
            break
    return found, _threads(), len(parts)


def _looked(
    look: Callable[[Request, pd.DataFrame], dict[str, Any]], request: Request, rows: pd.DataFrame
) -> dict[str, Any]:
    return look(request, rows) if len(rows) else {}


def _threads() -> int:
    """Threads of the cluster in use; of this process where there is none."""
    try:
        from distributed import default_client

        workers = default_client().scheduler_info(n_workers=-1)["workers"]
    except (ImportError, ValueError):
        return n_threads()
    return sum(worker["nthreads"] for worker in workers.values())


def _tree(parts: Sequence[Any], join: Callable[[list[Any]], Any]) -> Any:
    parts = list(parts)
    while len(parts) > 1:
        parts = [join(parts[i : i + _TOGETHER]) for i in range(0, len(parts), _TOGETHER)]
    return parts[0]


def _portable(request: Request, meta: pd.DataFrame) -> Request:
    """With the variables of the caller that it names, which no worker can look up."""
    scope = Scope(request.context, request.evaluate)
    words = dict.fromkeys(re.findall(r"[^\W\d]\w*", f"{request.formula} {request.subset or ''}"))
    held = {name: scope.get(name) for name in words if name not in meta.columns and name in scope}
    return replace(request, context=held, missing="raise" if request.missing == "raise" else "drop")


def _coded(request: Request, meta: pd.DataFrame) -> set[str]:
    """Columns left of the bars that are coded by levels."""
    columns = model_columns(request.parsed, list(meta.columns))
    asked = categorical_names(request.formula)
    types = pd.api.types
    return {
        name
        for name in columns
        if name in asked
        or types.is_bool_dtype(meta[name].dtype)
        or not types.is_numeric_dtype(meta[name].dtype)
    }


@dataclass(frozen=True, eq=False)
class _Part:
    """Sums of some partitions; none where these had no rows to use."""

    products: Products | None
    dropped: int
    given: int


def _sums_of(request: Request, rows: pd.DataFrame, known: Mapping[str, object]) -> _Part:
    try:
        products = collect(request, [rows], known)
    except NoRows as none:
        return _Part(None, none.dropped, none.given)
    return _Part(products, products.dropped, products.given)


def _merged(parts: list[_Part]) -> _Part:
    found = [part.products for part in parts if part.products is not None]
    total = reduce(Products.merged, found) if found else None
    return _Part(total, sum(part.dropped for part in parts), sum(part.given for part in parts))


def _finished(total: _Part, finish: Callable[[Products], object] | None) -> object:
    if total.products is None:
        raise NoRows(total.dropped, total.given)
    products = replace(total.products, dropped=total.dropped, given=total.given)
    return products if finish is None else finish(products)


def _levels_of(request: Request, rows: pd.DataFrame, asked: list[str]) -> dict[str, Levels]:
    found = request.frame(rows) if len(rows) else None
    if found is None or found[0].n == 0:
        return {}
    out = {}
    for name in asked:
        out[name] = Levels((name,))
        out[name].add(pd.DataFrame({name: found[0].raw(name)}, copy=False))
    return out


def _joined_levels(parts: list[dict[str, Levels]]) -> dict[str, Levels]:
    out: dict[str, Levels] = {}
    for part in parts:
        for name, levels in part.items():
            out.setdefault(name, Levels((name,))).add(levels.table().rows)
    return out
