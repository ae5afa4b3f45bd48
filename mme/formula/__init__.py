"""Formula layer: lme4's syntax and a data frame in, a `Design` and its labels out.

parse (text only) -> frame (columns, missing values) -> matrix (model matrices) and codes (grouping factors)
-> build (the `Design`).
"""

from .build import ModelDesign, build_design, make_unique
from .codes import Factor, encode, interact
from .matrix import r_name
from .parse import parse_formula

__all__ = [
    "Factor",
    "ModelDesign",
    "build_design",
    "encode",
    "interact",
    "make_unique",
    "parse_formula",
    "r_name",
]
