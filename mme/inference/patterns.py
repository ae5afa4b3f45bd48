"""Which structured covariances are some of which others, told from structures and columns."""

from __future__ import annotations

import re

import numpy as np

from ..engine.equations.design import Design, RandomTerm

__all__ = ["has_patterns", "lies_within", "patterned"]

# by structure, those of the same effects that hold all of its covariances; all lie in "full"
_WIDER: dict[str, tuple[str, ...]] = {
    "homdiag": ("diagonal", "cs", "homcs", "ar1", "hetar1", "toep", "homtoep"),
    "diagonal": ("cs", "hetar1", "toep"),
    "homcs": ("cs", "homtoep", "toep"),
    "cs": ("toep",),
    "ar1": ("hetar1", "homtoep", "toep"),
    "hetar1": ("toep",),
    "homtoep": ("toep",),
}
# one effect that all others equal: a correlation of one, or one loading for all
_HOLD_AN_INTERCEPT = ("full", "cs", "homcs", "ar1", "hetar1", "toep", "homtoep")


def has_patterns(design: Design | None) -> bool:
    """Whether some term's covariance is a function of fewer parameters."""
    return design is not None and any(term.structure.curved for term in design.terms)


def patterned(design: Design) -> str:
    """Its structures, for messages."""
    names = [term.structure.name for term in design.terms if term.structure.curved]
    return ", ".join(dict.fromkeys(names))


def lies_within(smaller: Design, larger: Design) -> bool:
    """Whether every term of one model has a term of its own in another that holds its covariances."""
    left = list(larger.terms)
    for term in smaller.terms:
        found = next((other for other in left if _holds(term, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _holds(term: RandomTerm, other: RandomTerm) -> bool:
    if term.codes is None or other.codes is None:
        return False
    if term.n_levels != other.n_levels or not np.array_equal(term.codes, other.codes):
        return False
    own, wider = term.structure.name, other.structure.name
    if _same_columns(term, other):
        latent = [re.fullmatch(r"rr\((\d+)\)", name) for name in (own, wider)]
        if latent[0] and latent[1]:
            return int(latent[0][1]) <= int(latent[1][1])
        return own == wider or wider == "full" or wider in _WIDER.get(own, ())
    # a random intercept in the levels of a factor
    if term.k > 1 or other.columns is None or (term.columns is not None and np.any(term.columns != 1.0)):
        return False
    indicators = bool(np.all(np.abs(other.columns.sum(axis=1) - 1.0) < 1e-12))
    return indicators and (wider in _HOLD_AN_INTERCEPT or wider.startswith("rr("))


def _same_columns(term: RandomTerm, other: RandomTerm) -> bool:
    if term.columns is None or other.columns is None:
        return term.columns is None and other.columns is None
    return term.columns.shape == other.columns.shape and bool(np.array_equal(term.columns, other.columns))
