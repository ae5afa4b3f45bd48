"""Linear mixed models by Henderson's mixed-model equations over sparse block designs."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from . import exceptions
from .lmm.model import LinearMixedModel, lmer

if TYPE_CHECKING:  # what __getattr__ fetches, for those who check types
    from .facade.design.components import VCSpec
    from .facade.design.params import MixedLMParams
    from .facade.install import install, uninstall
    from .facade.model import MixedLM, mixedlm
    from .lmm.preflight import preflight
    from .lmm.products import CrossProducts
    from .report.comparison import compare

    __version__: str

__all__ = [
    "CrossProducts",
    "LinearMixedModel",
    "MixedLM",
    "MixedLMParams",
    "VCSpec",
    "compare",
    "data_path",
    "exceptions",
    "install",
    "lmer",
    "mixedlm",
    "preflight",
    "uninstall",
]

# statsmodels' models take long to import; they are fetched when first named
_LATE = {
    "CrossProducts": "lmm.products",
    "MixedLM": "facade.model",
    "MixedLMParams": "facade.design.params",
    "VCSpec": "facade.design.components",
    "compare": "report.comparison",
    "install": "facade.install",
    "uninstall": "facade.install",
    "mixedlm": "facade.model",
    "preflight": "lmm.preflight",
}


def data_path(name: str) -> Path:
    """Path of a data file shipped with the package.

    Parameters
    ----------
    name : str
        For example ``"sleepstudy.csv"``.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    DataError
        No such file; the message lists those there are.
    """
    folder = Path(__file__).parent / "data"
    files = sorted(path.name for path in folder.glob("*.csv"))
    if name not in files:
        raise exceptions.DataError(f"mme ships no data file {name!r}; it has {', '.join(files)}.")
    return folder / name


def __getattr__(name: str) -> object:
    if name in _LATE:
        return getattr(import_module(f".{_LATE[name]}", __name__), name)
    if name == "__version__":
        return version("mme")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
