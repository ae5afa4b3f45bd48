"""Design matrices of a MixedLM's formulas: plain numeric columns are taken as they are.

A formula's meaning is that of statsmodels' formula engine.  Where it only lists numeric columns
(``y ~ x + z``) the engine sees a few rows, for the names and the coding of new data, once for every text
that patsy reads, and the matrices are filled from the columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ...exceptions import DataError
from ..releases import FormulaManager
from .lookup import Lookup
from .vc_formula import factors_of, numeric_column

__all__ = ["RandomEffects", "numeric_matrices", "random_effects_matrix"]

_HEAD = 5


def numeric_matrices(
    formula: Any, data: pd.DataFrame, columns_of: Lookup | None = None
) -> tuple[pd.DataFrame | None, pd.DataFrame, Any] | None:
    """Matrices of a formula that lists numeric columns of the data without missing values.

    Parameters
    ----------
    formula : str
        With or without a response.
    data : DataFrame, n rows
    columns_of : Lookup, optional
        The columns of the data, as far as they were looked at.

    Returns
    -------
    tuple or None
        Response, shape (n, 1), or None without one; design, shape (n, p); the formula engine's
        specification.  None where the formula is anything more: let the engine evaluate it.
    """
    found = _numeric_columns(formula, data, columns_of)
    if found is None:
        return None
    response, columns, names = found
    manager = FormulaManager()
    if manager.engine == "patsy" and names:
        left_names, index, labels, spec = _read_by_patsy(formula, names, bool(response))
    else:
        head = manager.get_matrices(formula, data.iloc[:_HEAD], eval_env=0, pandas=True)
        spec = manager.spec
        left_names, index = (head[0].columns, head[1].columns) if response else (None, head.columns)
        labels = tuple(index)
    if any(label != "Intercept" and label not in columns for label in labels):
        return None
    endog = None
    if response:
        if left_names is None or len(left_names) != 1:
            return None
        y = columns[response].astype(np.float64)[:, None]
        endog = pd.DataFrame(y, data.index, left_names.view(), copy=False)
    # as pandas keeps it: column passes are frequent
    filled = _side_by_side(labels, columns, len(data), "F")
    return endog, pd.DataFrame(filled, data.index, index.view(), copy=False), spec


def _numeric_columns(
    formula: Any, data: pd.DataFrame, columns_of: Lookup | None
) -> tuple[str, dict[str, np.ndarray], tuple[Hashable, ...]] | None:
    """The response of such a formula, what its terms and response are by their text, and their columns.

    The terms come first, in the order of the formula.
    """
    if not isinstance(formula, str) or len(data) <= _HEAD or not data.columns.is_unique:
        return None
    left, tilde, right = formula.partition("~")
    response = left.strip() if tilde else ""
    if "|" in formula or "~" in right:
        return None
    terms = factors_of(right if tilde else formula)
    if any(len(term) > 1 for term in terms):
        return None
    looked_up = Lookup(data) if columns_of is None else columns_of
    wanted = [term[0] for term in terms if term] + ([response] if response else [])
    columns: dict[str, np.ndarray] = {}
    names: list[Hashable] = []
    for code in wanted:
        name = numeric_column(code, looked_up)
        values = None if name is None else looked_up[name].to_numpy()
        if values is None or values.dtype.kind not in "iuf" or np.isnan(values.sum(dtype=np.float64)):
            return None
        columns[code] = values
        names.append(name)
    return response, columns, tuple(names)


@lru_cache(maxsize=256)
def _read_by_patsy(
    formula: str, names: tuple[Hashable, ...], response: bool
) -> tuple[pd.Index | None, pd.Index, tuple[str, ...], Any]:
    """Names of the response and of the design, and the specification, of a formula of numeric columns.

    Numbers are numbers to patsy, whichever they are: some rows of any serve.
    """
    import patsy

    # as the manager calls it, but on arrays, several times faster than on a frame
    head = dict.fromkeys(names, np.arange(float(_HEAD)))
    build = patsy.dmatrices if response else patsy.dmatrix
    made = build(formula, head, return_type="dataframe")
    design = made[1] if response else made
    left_names = made[0].columns if response else None
    return left_names, design.columns, tuple(design.columns), design.design_info


def _side_by_side(labels: Sequence[str], columns: dict[str, np.ndarray], n: int, order: Any) -> np.ndarray:
    """The columns of these labels, a label without one being the intercept, shape (n, p)."""
    out = np.empty((n, len(labels)), order=order)
    for j, label in enumerate(labels):
        out[:, j] = columns.get(label, 1.0)
    return out


@dataclass(frozen=True, eq=False)
class RandomEffects:
    """The design of the correlated random effects.

    Attributes
    ----------
    values : ndarray of float64, shape (n, k_re)
    labels : tuple of str
        Names of the columns.
    spec : object
        The formula engine's specification; None where the columns of the data are all there is to it.
    """

    values: np.ndarray
    labels: tuple[str, ...]
    spec: Any


def random_effects_matrix(
    formula: str, data: pd.DataFrame, env: Any, columns: Lookup | None = None
) -> RandomEffects:
    """The design of the correlated random effects; `columns` as in `numeric_matrices`.

    Raises
    ------
    DataError
        Missing values in a column of the formula.
    """
    found = _numeric_columns(formula, data, columns)
    if found is not None and not found[0]:
        taken = found[1]
        if all(code.isidentifier() for code in taken):
            # columns in the order of the terms, the intercept first: the engine has nothing to add
            labels = ("Intercept",) * (() in factors_of(formula)) + tuple(taken)
            return RandomEffects(_side_by_side(labels, taken, len(data), "C"), labels, None)
        plain = numeric_matrices(formula, data, columns)
        if plain is not None:
            return _of_matrix(plain[1])
    matrix = FormulaManager().get_matrices(
        formula, data, eval_env=env + 1 if isinstance(env, int) else env, pandas=True
    )
    if len(matrix) != len(data):
        raise DataError(
            f"re_formula {formula!r} has missing values in {len(data) - len(matrix)} rows. "
            "Remove them, or use missing='drop'."
        )
    return _of_matrix(matrix)


def _of_matrix(matrix: pd.DataFrame) -> RandomEffects:
    found = (getattr(matrix, name, None) for name in ("design_info", "model_spec"))
    # a column may have that name
    spec = next((spec for spec in found if spec is not None and not isinstance(spec, pd.Series)), None)
    return RandomEffects(matrix.to_numpy(dtype=np.float64), tuple(matrix.columns), spec)
