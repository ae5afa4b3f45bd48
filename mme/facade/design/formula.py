"""Design matrices of a MixedLM's formulas: plain numeric columns are taken as they are.

A formula's meaning is that of statsmodels' formula engine.  Where it only lists numeric columns
(``y ~ x + z``) the engine sees a few rows, for the names and the coding of new data, once for every text
that patsy reads, and the matrices are filled from the columns.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from ...exceptions import DataError
from ..releases import FormulaManager
from .lookup import Lookup
from .vc_formula import factors_of, numeric_column

__all__ = ["numeric_matrices", "random_effects_matrix", "spec_of"]

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
    n = len(data)
    if not response and all(code.isidentifier() for code in wanted):
        # columns in the order of the terms, the intercept first: the engine has nothing to add
        labels = _index_of(("Intercept",) * (() in terms) + tuple(columns)).view()
        filled = np.empty((n, len(labels)))
        for j, label in enumerate(labels):
            filled[:, j] = columns.get(label, 1.0)
        return None, pd.DataFrame(filled, data.index, labels, copy=False), None
    manager = FormulaManager()
    if manager.engine == "patsy" and names:
        left_names, labels, spec = _read_by_patsy(formula, tuple(names), bool(response))
    else:
        head = manager.get_matrices(formula, data.iloc[:_HEAD], eval_env=0, pandas=True)
        spec = manager.spec
        left_names, labels = (head[0].columns, head[1].columns) if response else (None, head.columns)
    filled = np.empty((n, len(labels)), order="F")  # as pandas keeps it: column passes are frequent
    for j, label in enumerate(labels):
        if label != "Intercept" and label not in columns:
            return None
        filled[:, j] = columns.get(label, 1.0)
    endog = None
    if response:
        if len(left_names) != 1:
            return None
        y = columns[response].astype(np.float64)[:, None]
        endog = pd.DataFrame(y, data.index, left_names.view(), copy=False)
    return endog, pd.DataFrame(filled, data.index, labels.view(), copy=False), spec


@lru_cache(maxsize=256)
def _read_by_patsy(
    formula: str, names: tuple[Hashable, ...], response: bool
) -> tuple[pd.Index | None, pd.Index, Any]:
    """Names of the response and of the design, and the specification, of a formula of numeric columns.

    Numbers are numbers to patsy, whichever they are: some rows of any serve.
    """
    import patsy

    # as the manager calls it, but on arrays, several times faster than on a frame
    head = dict.fromkeys(names, np.arange(float(_HEAD)))
    build = patsy.dmatrices if response else patsy.dmatrix
    made = build(formula, head, return_type="dataframe")
    design = made[1] if response else made
    return (made[0].columns if response else None), design.columns, design.design_info


@lru_cache(maxsize=256)
def _index_of(labels: tuple[str, ...]) -> pd.Index:
    """An Index of names; a view of it shares what it has looked up."""
    return pd.Index(labels)


def spec_of(matrix: pd.DataFrame) -> Any:
    """The formula engine's specification of its matrix; None for one filled from the columns."""
    for name in ("design_info", "model_spec"):
        found = getattr(matrix, name, None)
        if found is not None and not isinstance(found, pd.Series):  # a column of that name
            return found
    return None


def random_effects_matrix(
    formula: str, data: pd.DataFrame, env: Any, columns: Lookup | None = None
) -> pd.DataFrame:
    """The design of the correlated random effects, shape (n, k_re); see `numeric_matrices`.

    Raises
    ------
    DataError
        Missing values in a column of the formula.
    """
    plain = numeric_matrices(formula, data, columns)
    if plain is not None and plain[0] is None:
        return plain[1]
    matrix = FormulaManager().get_matrices(
        formula, data, eval_env=env + 1 if isinstance(env, int) else env, pandas=True
    )
    if len(matrix) != len(data):
        raise DataError(
            f"re_formula {formula!r} has missing values in {len(data) - len(matrix)} rows. "
            "Remove them, or use missing='drop'."
        )
    return matrix
