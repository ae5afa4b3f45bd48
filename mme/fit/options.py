"""Settings of a fit: the solvers by name, and those of the iterative path."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from ..engine.direct.plan import FACTORIZATIONS
from ..exceptions import OptionError

if TYPE_CHECKING:
    from ..engine.equations.equations import Equations

__all__ = [
    "AUTO",
    "SOLVERS",
    "FitArguments",
    "IterativeArguments",
    "IterativeOptions",
    "Route",
    "check_solver",
    "route_of",
]

SOLVERS = ("auto", "direct", "iterative", *FACTORIZATIONS[1:])


class Route(NamedTuple):
    """What a door's `solver` means below it.

    Attributes
    ----------
    path : {"auto", "direct", "iterative"}
    factorization : {"auto", "dense", "cholmod", "superlu"}
        Of the direct path.
    """

    path: str
    factorization: str


AUTO = Route("auto", "auto")


def route_of(solver: str) -> Route:
    """Path and factorization of a solver's name: the only place where one becomes the other.

    Raises
    ------
    OptionError
        There is none of that name.
    """
    check_solver(solver)
    if solver in FACTORIZATIONS:
        return Route("auto" if solver == "auto" else "direct", solver)
    return Route(solver, "auto")


def check_solver(solver: str) -> None:
    """Refuse the name of a solver that there is not."""
    if not isinstance(solver, str) or solver not in SOLVERS:
        raise OptionError(f"solver must be one of {', '.join(map(repr, SOLVERS))}, not {solver!r}.")


class IterativeArguments(TypedDict, total=False):
    """The fields of `IterativeOptions` as arguments."""

    probes: int
    max_probes: int
    seed: int
    goal: float
    accuracy: float
    solve_tol: float
    loglik_probes: int
    exact_steps: int
    progress: bool | None


class FitArguments(IterativeArguments, total=False):
    """What a door hands to `mme.fit.fit_design` as it was given."""

    max_evaluations: int
    tol: float
    starts: int | None
    perfect: str
    equations: Equations | None


@dataclass(frozen=True)
class IterativeOptions:
    """Settings of the iterative path.

    Attributes
    ----------
    probes, max_probes : int
        Probes to begin with, and at most.
    seed : int
        Of the probes.
    goal : float
        Largest Monte Carlo error over standard error.
    accuracy : float
        Of the search, in standard errors; where the Monte Carlo error is smaller still, this is reported.
    solve_tol : float
        Relative tolerance of the last solves, for fixed effects, their covariance and the random effects.
    loglik_probes : int
        Probes of the log-likelihood; 0 leaves it NaN. Where a factorization is cheap it is computed exactly.
    exact_steps : int
        If positive: from the stochastic root, at most so many steps of the direct path, which usually
        converges in one or two. The fit is then as a direct one, without Monte Carlo errors, and needs the
        memory of a direct factor.
    progress : bool or None
        Show a progress bar, of a direct fit too; None: on a terminal or in a notebook, if the fit takes
        seconds (iterative) or is predicted to take more than five (direct). False also leaves out the hint
        that another solver is predicted to be faster.
    """

    probes: int = 12
    max_probes: int = 256
    seed: int = 0
    goal: float = 0.05
    accuracy: float = 1e-4
    solve_tol: float = 1e-8
    loglik_probes: int = 16
    exact_steps: int = 0
    progress: bool | None = None

    def __post_init__(self) -> None:
        leasts = {"probes": 2, "max_probes": 2, "seed": 0, "loglik_probes": 0, "exact_steps": 0}
        for name, least in leasts.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise OptionError(f"{name} must be an integer and at least {least}, not {value!r}.")
        for name in ("goal", "accuracy", "solve_tol"):
            number: float = getattr(self, name)
            if not isinstance(number, Real) or not number > 0:
                raise OptionError(f"{name} must be a positive number, not {number!r}.")
        if self.max_probes < self.probes:
            raise OptionError(
                f"probes must be at most max_probes; they are {self.probes} and {self.max_probes}."
            )
        if self.loglik_probes == 1:
            raise OptionError("loglik_probes must be 0 (no log-likelihood) or at least 2.")
