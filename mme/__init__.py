"""Linear mixed models by Henderson's mixed-model equations over sparse block designs."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from . import exceptions, plot
from .hints import function_hint
from .lmm.model import LinearMixedModel, lmer
from .lmm.results import LinearMixedModelResults

if TYPE_CHECKING:  # what __getattr__ fetches, for those who check types
    from .facade.design.components import VCSpec
    from .facade.design.params import MixedLMParams
    from .facade.install import install, uninstall
    from .facade.model import MixedLM, mixedlm
    from .lmm.fit_many import fit_many
    from .lmm.preflight import preflight
    from .lmm.products import CrossProducts
    from .relationship.fields import ar1_grid, icar, rw1, rw2
    from .relationship.genomic import kinship, single_step
    from .relationship.known import Covariance, Precision
    from .relationship.pedigree import Pedigree
    from .report.artifact import save
    from .report.comparison import compare
    from .report.loaded import load
    from .report.power import power
    from .report.side_by_side import table

    __version__: str

__all__ = [
    "Covariance",
    "CrossProducts",
    "LinearMixedModel",
    "MixedLM",
    "MixedLMParams",
    "Pedigree",
    "Precision",
    "VCSpec",
    "ar1_grid",
    "compare",
    "data_path",
    "exceptions",
    "fit_many",
    "icar",
    "install",
    "kinship",
    "lmer",
    "load",
    "mixedlm",
    "plot",
    "power",
    "preflight",
    "rw1",
    "rw2",
    "save",
    "single_step",
    "table",
    "uninstall",
]

# statsmodels' models take long to import; they are fetched when first named
_LATE = {
    "Covariance": "relationship.known",
    "Pedigree": "relationship.pedigree",
    "Precision": "relationship.known",
    "ar1_grid": "relationship.fields",
    "icar": "relationship.fields",
    "kinship": "relationship.genomic",
    "rw1": "relationship.fields",
    "rw2": "relationship.fields",
    "single_step": "relationship.genomic",
    "CrossProducts": "lmm.products",
    "MixedLM": "facade.model",
    "MixedLMParams": "facade.design.params",
    "VCSpec": "facade.design.components",
    "compare": "report.comparison",
    "fit_many": "lmm.fit_many",
    "install": "facade.install",
    "uninstall": "facade.install",
    "load": "report.loaded",
    "mixedlm": "facade.model",
    "power": "report.power",
    "preflight": "lmm.preflight",
    "save": "report.artifact",
    "table": "report.side_by_side",
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

    Examples
    --------
    >>> import mme
    >>> mme.data_path("sleepstudy.csv").name
    'sleepstudy.csv'
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
    hint = "" if name.startswith("_") else function_hint(name, __all__.__contains__, _is_method)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint and '; ' + hint}")


def _is_method(name: str) -> bool:
    return not name.startswith("_") and hasattr(LinearMixedModelResults, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
