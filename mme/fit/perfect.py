"""Responses that fixed and random effects explain exactly: detection, and the limit sigma -> 0.

With y in the span of [X Z] the likelihood grows without bound as sigma -> 0.  Along D = T D_0 the residual
sum of squares is r2(T) = r2(infinity) + c / T + O(1 / T^2), so that two values of it tell r2(infinity).

The limit is that of responses with a little noise: a residual sum of squares of 1e-8 of the response's is
added, as one observation that no effect touches would.  Fixed effects, their standard errors and the
variances then converge to those of the model without residual, and are about 1e-7 from them.  Beside terms
1e8 times their variance others would drown in it; small models are looked at with 1e-14, on factored rows.
"""

from __future__ import annotations

import numpy as np

from ..engine.direct.objective import Objective
from ..engine.equations.equations import Equations
from ..engine.search.coordinates import Coordinates, TermSpec
from ..engine.search.optimizer import Minimum
from ..exceptions import PerfectFitError

__all__ = [
    "ADDED",
    "CLOSER",
    "explains_exactly",
    "has_few_rows",
    "is_closer",
    "limit_equations",
    "may_explain",
]

ADDED = 1e-8  # residual sum of squares that is added, of the response's own
CLOSER = 1e-14  # the same where rows are factored, of models small enough
_EXACT = 1e-12  # share of the response's sum of squares that counts as nothing
_NEARLY = 1e-4  # share left at the optimum below which it is asked whether everything can be explained
_EXTREME = 1.0 - 1e-5  # the same for the largest reliability
_SPARE = 3.0  # rows per effect up to which the same is asked
_MUCH = 1e-3  # share of y left beside huge variances, with room for terms that are nearly dependent
_RELIABILITIES = (1.0 - 1e-8, 1.0 - 1e-10)


def may_explain(objective: Objective, terms: list[TermSpec] | Coordinates, minimum: Minimum) -> bool:
    """Whether something at an optimum suggests that y lies in the span of [X Z]."""
    space = Coordinates.of(terms)
    share = minimum.evaluation.sigma2 * objective.nu / objective.yy
    if not minimum.converged or share < _NEARLY or space.at(minimum.theta).largest() > _EXTREME:
        return True
    return has_few_rows(objective.eq) and not _leaves_much(objective, space)


def has_few_rows(eq: Equations) -> bool:
    """Whether there are so few rows beside the effects that a response is asked whether they explain it."""
    return eq.n <= _SPARE * (eq.p + sum(b.q * b.k for b in eq.layout.blocks))


def _leaves_much(objective: Objective, space: Coordinates) -> bool:
    """Whether all terms together, with huge variances, leave so much of y that none can explain it."""
    try:
        left = objective.evaluate(space.uniform(_RELIABILITIES[0]), 0, standard=True)
    except (PerfectFitError, np.linalg.LinAlgError):
        return False
    return left.sigma2 * objective.nu > _MUCH * objective.yy


def explains_exactly(objective: Objective, terms: list[TermSpec] | Coordinates) -> bool:
    """Whether y lies in the span of [X Z], by two evaluations at huge variances.

    Not asked where these may be as many as the rows: every response is in their span then.
    """
    lay = objective.eq.layout
    if objective.eq.p + sum(b.q * b.k for b in lay.blocks) >= objective.eq.n:
        return False
    space = Coordinates.of(terms)
    left = []
    for reliability in _RELIABILITIES:
        try:
            theta = space.uniform(reliability)
            left.append(objective.evaluate(theta, 0, standard=True).sigma2 * objective.nu / objective.yy)
        except PerfectFitError:
            return True
        except np.linalg.LinAlgError:
            return False  # X in the span of Z: its rounding hides what is left of y
    ratio = (1.0 - _RELIABILITIES[0]) / (1.0 - _RELIABILITIES[1])
    return (ratio * left[1] - left[0]) / (ratio - 1.0) < _EXACT


def limit_equations(equations: Equations) -> Equations:
    """The equations with a little residual variation that no effect explains."""
    return equations.with_response(equations.response.enlarged(ADDED))


def is_closer(r2: float, yy: float) -> bool:
    """Whether a residual sum of squares in the limit is that of the closer one."""
    return r2 < 0.1 * ADDED * yy
