"""Profile log-likelihood of one variance of a MixedLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...exceptions import PerfectFitError
from ..design.params import MixedLMParams
from ..options import check_kwargs, method_names
from ..scipy_search import conditions_at, scipy_minimize
from ..structured import refuse_searches

if TYPE_CHECKING:
    from ..protocol import MixedResults

__all__ = ["profile_variance"]

# Predicted further increase of the log-likelihood below which a point of the profile is found.
_DECREMENT = 1e-9
_STEPS = 40


def profile_variance(
    results: MixedResults,
    re_ix: int | str,
    vtype: str,
    num_low: int,
    dist_low: float,
    num_high: int,
    dist_high: float,
    fit_kwargs: dict[str, Any],
) -> np.ndarray:
    """See `MixedLMResults.profile_re`.

    The variance itself is held, not its ratio to the residual variance s: the search runs over s and the
    other covariance parameters, from the estimate outwards, each point starting where its neighbour ended.
    """
    if vtype not in ("re", "vc"):
        raise ValueError(f"vtype must be 're' or 'vc', not {vtype!r}.")
    if results.perfect:
        raise PerfectFitError(
            "the model explains the response exactly: its likelihood has no upper bound, and no profile."
        )
    model = results.model
    refuse_searches(model.covariance, "profile_re() moves a variance (see conf_int(method='profile'))")
    if vtype == "re":
        j = range(model.k_re)[cast(int, re_ix)]
        estimate = float(results.cov_re[j, j])
    else:
        if re_ix not in model.exog_vc.names:
            raise ValueError(f"{re_ix!r} is not a variance component; there are {list(model.exog_vc.names)}.")
        j = list(model.exog_vc.names).index(cast(str, re_ix))
        estimate = float(results.vcomp[j])
    if estimate - dist_low <= 0:
        raise ValueError(
            f"dist_low={dist_low:g} is too large and would result in a negative variance: the estimate is "
            f"{estimate:.6g}. Try a smaller value."
        )
    values = np.concatenate(
        (
            np.linspace(estimate - dist_low, estimate, num_low + 1),
            np.linspace(estimate, estimate + dist_high, num_high + 1)[1:],
        )
    )
    search = _Search(results, vtype, j, fit_kwargs)
    llf = np.empty(values.size)
    llf[num_low] = results.llf
    for part in (range(num_low - 1, -1, -1), range(num_low + 1, values.size)):
        x = before = search.start()
        for i in part:
            # values are equally spaced: the next optimum is about as far from this one as this from the last
            llf[i], found = search.maximize(values[i], 2.0 * x - before)
            before, x = x, found
    return np.column_stack((values, llf))


class _Search:
    """Maximization over log s and the packed factor with one variance held."""

    def __init__(self, results: MixedResults, vtype: str, j: int, fit_kwargs: dict[str, Any]) -> None:
        kwargs = dict(fit_kwargs)
        self.methods = method_names(kwargs.pop("method", None))
        self.reml = bool(kwargs.pop("reml", results.reml))
        self.options = check_kwargs(kwargs, stacklevel=6)
        self._inverse: np.ndarray | None = None
        self.results, self.model = results, results.model
        self.cov_pen = results.cov_pen
        k_re, k_re2, k_vc = self.model.k_re, self.model.k_re2, self.model.k_vc
        # the held effect comes first, so that its variance is one entry of the factor
        self.order = np.arange(k_re)
        if vtype == "re":
            self.order[[0, j]] = self.order[[j, 0]]
        self.held = 0 if vtype == "re" else k_re2 + j
        self.estimate = float(results.cov_re[j, j] if vtype == "re" else results.vcomp[j])
        self.mask = np.ones(k_re2 + k_vc, dtype=bool)
        free = results.freepat
        if free is not None:
            pattern = np.asarray(free.cov_re)[np.ix_(self.order, self.order)]
            self.mask = np.concatenate((pattern[np.tril_indices(k_re)], np.ravel(free.vcomp))) != 0
        self.mask[self.held] = False
        params = results.params_object
        permuted = MixedLMParams.from_components(
            params.fe_params,
            cov_re=np.asarray(params.cov_re)[np.ix_(self.order, self.order)],
            vcomp=np.asarray(params.vcomp),
        )
        self.packed = permuted.get_packed(use_sqrt=True)
        squares = [self.model.likelihood.term_squares(t) for t in range(int(k_re > 0) + k_vc)]
        sizes = []
        if k_re:
            sizes.append((1.0 / np.sqrt(squares[0]))[self.order][np.tril_indices(k_re)[0]])
        sizes.append(np.array([1.0 / np.sqrt(s[0]) for s in squares[int(k_re > 0) :]]))
        self.size = np.concatenate(sizes)[self.mask]

    def start(self) -> np.ndarray:
        return np.concatenate(([np.log(self.results.scale)], self.packed[self.mask] / self.size))

    def maximize(self, value: float, x0: np.ndarray) -> tuple[float, np.ndarray]:
        """The largest log-likelihood with the variance held at a value, and where it is."""
        if not self.methods:
            found = self._quasi_newton(value, x0)
            if found is not None:
                return found
        options = {"gtol": 1e-6, **self.options}

        def negative(x: np.ndarray) -> tuple[float, np.ndarray]:
            return self._negative(x, value)

        methods = self.methods or ["bfgs", "lbfgs"]
        minimum = scipy_minimize(negative, x0, methods, options, lambda x: conditions_at(negative, x).hold)
        return -float(minimum.fun), minimum.x

    def _quasi_newton(self, value: float, x: np.ndarray) -> tuple[float, np.ndarray] | None:
        """BFGS steps from the curvature at the estimate; None where they do not settle.

        The exact gradient says when to stop: a likelihood of 1e5 has no digits left to compare near the top.
        """
        if self._inverse is None:
            self._inverse = self._inverse_curvature()
        B = self._inverse
        if not np.all(np.isfinite(B)):
            return None
        f, g = self._negative(x, value)
        gtol = self.options.get("gtol", np.inf)
        for _ in range(int(self.options.get("maxiter") or _STEPS)):
            if not np.isfinite(f):
                return None
            step = -B @ g
            if -0.5 * float(g @ step) < _DECREMENT and np.max(np.abs(g)) <= gtol:
                return -f, x
            for _ in range(6):
                f1, g1 = self._negative(x + step, value)
                if f1 <= f + 1e-9 * (1.0 + abs(f)):
                    break
                step = 0.5 * step
            else:
                return None
            y, sy = g1 - g, float(step @ (g1 - g))
            if sy > 0:
                turn = np.eye(x.size) - np.outer(step, y) / sy
                B = turn @ B @ turn.T + np.outer(step, step) / sy
            x, f, g = x + step, f1, g1
        return None

    def _inverse_curvature(self) -> np.ndarray:
        """Inverse Hessian at the estimate by differences of the gradient; NaN where it is not convex."""
        x, value = self.start(), self.estimate
        g = self._negative(x, value)[1]
        H = np.array([(self._negative(x + 1e-4 * e, value)[1] - g) / 1e-4 for e in np.eye(x.size)])
        w, U = np.linalg.eigh(0.5 * (H + H.T))
        return (U / w) @ U.T if w[0] > 1e-8 * w[-1] else np.full_like(H, np.nan)

    def _negative(self, x: np.ndarray, value: float) -> tuple[float, np.ndarray]:
        model, likelihood = self.model, self.model.likelihood
        k_re, k_re2 = model.k_re, model.k_re2
        s = float(np.exp(x[0]))
        packed = self.packed.copy()
        packed[self.mask] = x[1:] * self.size
        packed[self.held] = np.sqrt(value / s)
        ix = np.tril_indices(k_re)
        root = np.zeros((k_re, k_re))
        root[ix] = packed[:k_re2]
        back = np.argsort(self.order)
        cov_re = (root @ root.T)[np.ix_(back, back)]
        point = likelihood.at(cov_re, packed[k_re2:] ** 2, self.reml)
        nu, r2 = point.nu(self.reml), point.r2()
        # point.loglike() has s at r2 / nu; put the given s there
        value_l = point.loglike() - 0.5 * (nu * np.log(s * nu / r2) + r2 / s - nu)
        slopes = [t + 0.5 * q / s for t, q in zip(point.trace_slope(), point.quadratic(None), strict=True)]
        gradient = np.zeros(packed.size)
        if k_re:
            S = slopes[0]
            if self.cov_pen is not None:
                inverse = np.linalg.pinv(cov_re)
                value_l -= self.cov_pen.func(cov_re, inverse)
                pen = np.zeros((k_re, k_re))
                pen[ix] = self.cov_pen.deriv(cov_re, inverse)
                S = S - 0.5 * (pen + pen.T)
            gradient[:k_re2] = (2.0 * S[np.ix_(self.order, self.order)] @ root)[ix]
        rest = slopes[1 if k_re else 0 :]
        gradient[k_re2:] = [2.0 * d * t[0, 0] for d, t in zip(packed[k_re2:], rest, strict=True)]
        # the held entry moves with s: sqrt(value / s)
        d_log_s = -0.5 * nu + 0.5 * r2 / s - 0.5 * packed[self.held] * gradient[self.held]
        return -value_l, -np.concatenate(([d_log_s], gradient[self.mask] * self.size))
