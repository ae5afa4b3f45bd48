"""Named errors and warnings; every one says what happened, which names, and what to do."""

import sys
import warnings

__all__ = [
    "EXPLAINED",
    "EXPLAINED_BY_FIXED",
    "ConvergenceError",
    "ConvergenceWarning",
    "DataError",
    "DesignError",
    "FlatLikelihoodWarning",
    "FormulaError",
    "MMEError",
    "MMEWarning",
    "MemoryEstimateError",
    "MissingDataWarning",
    "NotEnoughDataError",
    "OptionError",
    "PerfectFitError",
    "PerfectFitWarning",
    "RankDeficientWarning",
    "SolverFallbackWarning",
    "warn_caller",
]


# what PerfectFitError says, wherever an exact fit is met
EXPLAINED = (
    "the fixed and random effects together explain the response exactly (residual variance -> 0); variance "
    "ratios are unbounded. Check for levels with one row each, or a response that is constant in groups."
)
EXPLAINED_BY_FIXED = (
    "the fixed effects explain the response exactly; the residual variance is zero and no variance ratio "
    "can be estimated. Check whether the response is a function of the covariates."
)


class MMEError(Exception):
    """Base class of all errors raised by mme."""


class DataError(MMEError, ValueError):
    """Values that cannot be used: empty, missing, infinite, of unequal lengths or of the wrong kind."""


class DesignError(MMEError, ValueError):
    """A model that cannot be identified from its design, for example a grouping factor with one level."""


class NotEnoughDataError(DesignError):
    """Fewer observations than fixed effects, or than levels of a grouping factor."""


class PerfectFitError(DesignError):
    """The model explains the response exactly: no residual variance, so no ratio to it."""


class FormulaError(MMEError, ValueError):
    """A formula that cannot be parsed, or names something the data do not have."""


class OptionError(MMEError, TypeError, ValueError):
    """An argument that there is not, or a value that it cannot have."""


class ConvergenceError(MMEError, ArithmeticError):
    """No finite value of the objective could be computed at the starting point."""


class MemoryEstimateError(MMEError, MemoryError):
    """A fit that is predicted not to fit in memory; refused before anything large is allocated."""


class InferenceError(MMEError, NotImplementedError):
    """Something that this fit cannot give: it has no factorization, or its data were removed."""


class MMEWarning(UserWarning):
    """Base class of all warnings raised by mme itself."""


class ConvergenceWarning(MMEWarning):
    """The search ended where the optimality conditions do not hold; the best point found is returned."""


class FlatLikelihoodWarning(MMEWarning):
    """The data do not tell some variances or covariances: their estimates are arbitrary."""


class PerfectFitWarning(MMEWarning):
    """The model explains the response exactly; the limit of a residual variance of zero is returned."""


class MissingDataWarning(MMEWarning):
    """Rows with missing values in columns of the model were left out."""


class RankDeficientWarning(MMEWarning):
    """Columns of the fixed-effects design depend on earlier ones and were dropped."""


class SolverFallbackWarning(MMEWarning):
    """A solver that was asked for is not installed; another one serves."""


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the first line outside of mme, whichever door it came through.

    Parameters
    ----------
    message : str
    category : type
    """
    package = __name__.partition(".")[0]
    level = 1
    while sys._getframe(level).f_globals.get("__name__", "").partition(".")[0] == package:
        level += 1
    warnings.warn(message, category, stacklevel=level + 1)
