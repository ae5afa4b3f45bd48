"""One fit from beginning to end: `fit_design`; read `mme.fit.fit` first."""

from .fit import fit_design
from .options import SOLVERS, IterativeOptions, check_solver
from .record import Fit, FitRecord

__all__ = ["SOLVERS", "Fit", "FitRecord", "IterativeOptions", "check_solver", "fit_design"]
