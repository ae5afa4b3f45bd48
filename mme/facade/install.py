"""Putting mme's mixed model where statsmodels keeps its own, so that programs written for it run unchanged.

    import mme
    mme.install()              # statsmodels.api.MixedLM and statsmodels.formula.api.mixedlm are now mme's
    mme.uninstall()            # and statsmodels' again

    with mme.install():        # for a while
        ...

Names imported before, as in ``from statsmodels.api import MixedLM``, keep what they were bound to.  Processes
that are started anew, as those of joblib and of spawning pools, begin without: ``initializer=mme.install``.
"""

from __future__ import annotations

import threading
from types import ModuleType, TracebackType
from typing import Any

__all__ = ["Installation", "install", "uninstall"]

_lock = threading.RLock()
_replaced: list[tuple[ModuleType, str, Any]] = []
_holders = 0


def _targets() -> list[tuple[ModuleType, dict[str, Any]]]:
    import statsmodels.api
    import statsmodels.formula.api
    import statsmodels.regression.mixed_linear_model as original

    from .design.components import VCSpec
    from .design.params import MixedLMParams
    from .model import MixedLM
    from .results.results import MixedLMResults, MixedLMResultsWrapper

    classes = {
        "MixedLM": MixedLM,
        "MixedLMParams": MixedLMParams,
        "MixedLMResults": MixedLMResults,
        "MixedLMResultsWrapper": MixedLMResultsWrapper,
        "VCSpec": VCSpec,
    }
    return [
        (original, classes),
        (statsmodels.api, {"MixedLM": MixedLM, "VCSpec": VCSpec}),
        (statsmodels.formula.api, {"mixedlm": MixedLM.from_formula}),
    ]


def _names() -> ModuleType:
    from . import names as mixedlm_names

    return mixedlm_names


class Installation:
    """What `install` returns: a context manager that uninstalls at the end of its block."""

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        uninstall()


def install() -> Installation:
    """Replace statsmodels' MixedLM by mme's in its own modules, for the whole process.

    Calls count: as many calls of `uninstall`, from any thread, put statsmodels' classes back.  Results of
    fits in between bear statsmodels' module in their types, for programs that ask; they are pickled under
    mme's.  Worker processes do not inherit it: hand this function to their pool as `initializer`.

    Returns
    -------
    Installation
        Usable as a context manager.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> import statsmodels.formula.api as smf
    >>> with mme.install():
    ...     model = smf.mixedlm("Reaction ~ Days", sleep, groups="Subject")
    >>> isinstance(model, mme.MixedLM)
    True
    """
    global _holders
    with _lock:
        if _holders == 0:
            targets = _targets()
            _names().use_names_of(targets[0][0].MixedLMResultsWrapper)
            for module, names in targets:
                for name, value in names.items():
                    if hasattr(module, name):  # statsmodels.api of 0.14 has no VCSpec
                        _replaced.append((module, name, getattr(module, name)))
                        setattr(module, name, value)
        _holders += 1
    return Installation()


def uninstall() -> None:
    """Undo one `install`; the last one puts statsmodels' classes back.  Without any it does nothing.

    Examples
    --------
    >>> import mme
    >>> import statsmodels.api as sm
    >>> installation = mme.install()
    >>> sm.MixedLM is mme.MixedLM
    True
    >>> mme.uninstall()
    >>> sm.MixedLM is mme.MixedLM
    False
    """
    global _holders
    with _lock:
        if _holders == 0:
            return
        _holders -= 1
        if _holders == 0:
            _names().use_names_of(None)
            while _replaced:
                module, name, value = _replaced.pop()
                setattr(module, name, value)
