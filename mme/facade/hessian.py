"""Second derivatives of a MixedLM's log-likelihood in (co)variances as differences of the score.

For penalties, which have first derivatives alone, and for crossed factors of many levels, where
`mme.engine.direct.hessian` would take longer than the fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["SINGULAR", "difference_hessian", "feasible_directions"]

# Steps of the differences, relative to the size of the parameters or to their distance from a singular
# covariance.  Two-sided: truncation 4 h^4 and rounding eps/h are both near 1e-11.  One-sided (covariance
# singular to within SINGULAR): the engine's scores are good to 1e-8 there, hence longer.
_STEP = 1e-3
_STEP_ONE_SIDED = 2e-2
SINGULAR = 1e-7


def feasible_directions(
    cov_re: np.ndarray, vcomp: np.ndarray, floors: Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Changes of (D, v) of natural size that span the parameters, and the room behind each.

    Parameters
    ----------
    cov_re : ndarray, shape (k_re, k_re)
    vcomp : ndarray, shape (k_vc,)
    floors : sequence of ndarray
        Per term, the variance the likelihood begins to notice (its reliability one half).
    """
    k_re, out = cov_re.shape[0], []
    none, still = np.zeros(vcomp.size), np.zeros((k_re, k_re))
    if k_re:
        size = np.sqrt(np.maximum(np.diag(cov_re), floors[0]))
        smallest, basis = np.linalg.eigh(cov_re / np.outer(size, size))
        for a in range(k_re):
            for b in range(a + 1):
                v = np.zeros(k_re)
                v[a] = v[b] = 1.0
                w = basis.T @ v
                room = 0.0 if smallest[0] <= 1e-12 else 1.0 / float(np.sum(w**2 / smallest))
                out.append((np.outer(size * v, size * v), none, room))
    for j, floor in enumerate(floors[int(k_re > 0) :]):
        size = max(vcomp[j], floor[0])
        e = none.copy()
        e[j] = size
        out.append((still, e, vcomp[j] / size))
    return out


def difference_hessian(
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray],
    cov_re: np.ndarray,
    vcomp: np.ndarray,
    directions: Sequence[tuple[np.ndarray, np.ndarray, float]],
) -> np.ndarray:
    """Derivative of a score in (D, v) by fourth-order differences along feasible directions.

    Two-sided, relative error about 1e-9; one-sided where the covariance is singular, about 1e-5.
    """
    ix = np.tril_indices(cov_re.shape[0])
    spans, derivatives = [], []
    for E, e, room in directions:

        def along(step: float, E: np.ndarray = E, e: np.ndarray = e) -> np.ndarray:
            return slope(cov_re + step * E, vcomp + step * e)

        if room > SINGULAR:
            # the likelihood is singular at a distance `room` at the nearest: a step is a share of that
            h = _STEP * min(1.0, room)
            near, far = along(h) - along(-h), along(2 * h) - along(-2 * h)
            derivative = (8.0 * near - far) / (12.0 * h)
        else:
            h = _STEP_ONE_SIDED
            f = [along(i * h) for i in range(5)]
            derivative = (-25 * f[0] + 48 * f[1] - 36 * f[2] + 16 * f[3] - 3 * f[4]) / (12 * h)
        spans.append(np.concatenate((E[ix], e)))
        derivatives.append(derivative)
    if not spans:
        return np.zeros((0, 0))
    # derivatives[i] = H spans[i]
    H = np.linalg.solve(np.array(spans), np.array(derivatives))
    return 0.5 * (H + H.T)
