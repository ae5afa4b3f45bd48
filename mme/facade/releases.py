"""What differs between the releases of statsmodels that mme runs with.

Since 0.15 a formula is read by patsy or formulaic behind one manager; 0.14 calls patsy itself, and keeps a
formula's coding under another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

__all__ = ["SPEC", "FormulaManager", "PatsyManager", "cache_readonly"]


class PatsyManager:
    """What mme uses of statsmodels' FormulaManager, by patsy alone.

    Attributes
    ----------
    engine : str
        ``"patsy"``.
    spec : patsy.DesignInfo or None
        Coding of the right side of the last formula evaluated.
    """

    engine = "patsy"

    def __init__(self) -> None:
        self.spec: Any = None

    def get_matrices(
        self, formula: Any, data: Any, eval_env: Any = 0, pandas: bool = True, **options: Any
    ) -> Any:
        """Response and design of a formula, or the design of a one-sided one, as frames.

        Parameters
        ----------
        formula : str or patsy.DesignInfo
        data : DataFrame
        eval_env : int, mapping or patsy.EvalEnvironment
            Frames up from the caller where names are looked up, or the names.
        pandas : bool
            True: there is no other form here.
        **options
            Ignored: what only concerns other engines.
        """
        import patsy

        if isinstance(eval_env, Mapping):
            eval_env = patsy.EvalEnvironment([dict(eval_env)])
        elif isinstance(eval_env, int):
            eval_env += 1
        two_sided = isinstance(formula, str) and formula.partition("~")[0].strip() and "~" in formula
        build = patsy.dmatrices if two_sided else patsy.dmatrix
        out = build(formula, plain_text(data), eval_env=eval_env, return_type="dataframe")
        self.spec = (out[1] if two_sided else out).design_info
        return out

    def get_empty_eval_env(self) -> Any:
        """Where no name is found."""
        import patsy

        return patsy.EvalEnvironment({})


def plain_text(data: Any) -> Any:
    """A frame with its columns of pandas' string type as objects, the text that patsy knows."""
    if not isinstance(data, pd.DataFrame):
        return data
    text = [name for name, dtype in data.dtypes.items() if isinstance(dtype, pd.StringDtype)]
    return data.astype(dict.fromkeys(text, object)) if text else data


try:
    from statsmodels.formula._manager import FormulaManager
    from statsmodels.tools._decorators import cache_readonly

    SPEC = "model_spec"  # name under which a model's data keep the formula's coding
except ImportError:  # 0.14
    from statsmodels.tools.decorators import cache_readonly

    FormulaManager = PatsyManager
    SPEC = "design_info"
