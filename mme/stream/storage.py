"""Cross-products in a file: an Arrow table (IPC) with an array a row, all else as JSON in its schema."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..engine.equations.basis import Basis, Columns
from ..engine.equations.level_sums import BlockSums, PairSums
from ..engine.equations.sums import Sums
from ..exceptions import DataError
from .products import Products
from .recipe import Recipe
from .survey import Request
from .tables import LevelTable

__all__ = ["read", "write"]

_FORMAT = "mme cross-products 2"
_FRAME = "frame"  # in place of a type of NumPy's: a frame as an Arrow stream


def write(products: Products, path: str | os.PathLike[str]) -> None:
    """Save; a file that is there is replaced once the new one is complete.

    Raises
    ------
    DataError
        The formula needs rows, or variables of the caller, to be read again.
    """
    pa = _pyarrow()
    recipe, sums = products.recipe, products.sums
    request = recipe.request
    # a file that could not be read again is not written
    again = Recipe.restored(replace(request, context={}), recipe.tables, recipe.kinds, recipe.ranges)
    _check_same(again, [list(columns.labels) for columns in recipe.codings], request.formula)
    arrays: dict[str, np.ndarray] = {
        "xr": sums.xr,
        "plain": sums.plain,
        "b": sums.basis.b,
        "x.shift": sums.basis.x.shift,
        "x.P": sums.basis.x.P,
    }
    for t, columns in enumerate(sums.basis.terms):
        if columns is not None:
            arrays |= {f"term{t}.shift": columns.shift, f"term{t}.P": columns.P}
    for i, block in enumerate(sums.blocks):
        arrays[f"block{i}"] = block.table
    for (a, b), pair in sums.pairs.items():
        pair.settle()
        arrays |= {f"pair{a},{b}.keys": pair.keys, f"pair{a},{b}.values": pair.values}
    rows = [
        (name, a.dtype.str, list(a.shape), np.ascontiguousarray(a).tobytes()) for name, a in arrays.items()
    ]
    tables = list(recipe.tables)
    for i, key in enumerate(tables):
        rows.append((f"table{i}", _FRAME, [], _packed(recipe.tables[key].rows)))
    facts = {
        "format": _FORMAT,
        "formula": request.formula,
        "weights": request.weights,
        "offset": request.offset,
        "subset": request.subset,
        "missing": request.missing,
        "kinds": recipe.kinds,
        "ranges": {name: list(map(float, r)) for name, r in recipe.ranges.items()},
        "tables": [list(key) for key in tables],
        "columns": [list(columns.labels) for columns in recipe.codings],
        "variables": {v.name: [v.mean, v.low, v.high] for v in recipe.coding.variables},
        "groups": [list(group) for group in sums.groups],
        "same": [list(places) for places in sums.basis.same],
        "pairs": [[a, b, pair.q] for (a, b), pair in sums.pairs.items()],
        "terms": [columns is not None for columns in sums.basis.terms],
        "level": sums.basis.level,
        "n": sums.n,
        "log_w": sums.log_w,
        "total": sums.total,
        "low": sums.low,
        "high": sums.high,
        "dropped": products.dropped,
        "given": products.given,
    }
    schema = pa.schema(
        [
            ("name", pa.string()),
            ("type", pa.string()),
            ("shape", pa.list_(pa.int64())),
            ("data", pa.large_binary()),
        ],
        metadata={"mme": json.dumps(facts)},
    )
    table = pa.table(
        [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)], schema
    )
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(table)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: str | os.PathLike[str], evaluate: str = "safe") -> Products:
    """Load.

    Parameters
    ----------
    path : str or path
    evaluate : {"safe", "full"}
        What the file's formula may do.

    Raises
    ------
    DataError
        No file of cross-products.
    """
    pa = _pyarrow()
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            facts = json.loads((table.schema.metadata or {}).get(b"mme", b"{}"))
            rows = table.to_pylist()
    except FileNotFoundError as error:
        raise DataError(f"there is no file {str(path)!r}.") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{str(path)!r} is no file of cross-products: {error}.") from error
    if facts.get("format") != _FORMAT:
        raise DataError(f"{str(path)!r} is no file of cross-products that this version of mme can read.")
    held: dict[str, Any] = {}
    for row in rows:
        if row["type"] == _FRAME:
            held[row["name"]] = pa.ipc.open_stream(row["data"]).read_all().to_pandas()
        else:
            held[row["name"]] = np.frombuffer(row["data"], np.dtype(row["type"])).reshape(row["shape"]).copy()
    request = Request(
        facts["formula"], facts["weights"], facts["offset"], facts["subset"], facts["missing"], evaluate, {}
    )
    tables = {tuple(key): LevelTable.of(held[f"table{i}"]) for i, key in enumerate(facts["tables"])}
    ranges = {name: (r[0], r[1], r[2]) for name, r in facts["ranges"].items()}
    recipe = Recipe.restored(request, tables, facts["kinds"], ranges)
    _check_same(recipe, facts["columns"], request.formula)
    own = facts["variables"]
    variables = tuple(
        replace(v, mean=own[v.name][0], low=own[v.name][1], high=own[v.name][2]) if v.name in own else v
        for v in recipe.coding.variables
    )
    recipe = replace(recipe, coding=replace(recipe.coding, variables=variables))
    terms = tuple(
        Columns(held[f"term{t}.shift"], held[f"term{t}.P"]) if there else None
        for t, there in enumerate(facts["terms"])
    )
    same = tuple(map(tuple, facts["same"]))
    basis = Basis(Columns(held["x.shift"], held["x.P"]), held["b"], facts["level"], terms, same)
    groups = tuple(map(tuple, facts["groups"]))
    sums = Sums(
        basis,
        groups,
        facts["n"],
        facts["log_w"],
        held["xr"],
        held["plain"],
        facts["total"],
        facts["low"],
        facts["high"],
        [
            BlockSums(held[f"block{i}"], tuple(at for t in group for at in basis.pool[t]), basis.b.size + 1)
            for i, group in enumerate(groups)
        ],
        {
            (a, b): PairSums(q, held[f"pair{a},{b}.keys"], held[f"pair{a},{b}.values"])
            for a, b, q in facts["pairs"]
        },
    )
    return Products(recipe, sums, facts["dropped"], facts["given"])


def _check_same(recipe: Recipe, columns: list[list[str]], formula: str) -> None:
    if [list(c.labels) for c in recipe.codings] != columns:
        raise DataError(
            f"formula {formula!r}: its columns are coded in another way without the rows, so that "
            "cross-products of it cannot be stored."
        )


def _packed(frame: pd.DataFrame) -> bytes:
    pa = _pyarrow()
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"levels of {', '.join(map(str, frame.columns))} cannot be stored: {error}."
        ) from error
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise DataError(
            "cross-products are stored with pyarrow, which is not installed: pip install pyarrow."
        ) from error
    return pyarrow
