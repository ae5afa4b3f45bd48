"""Covariance structures with fewer parameters than D has entries: D as a function of them.

    D = diag(s) C diag(s)     s standard deviations, C a correlation matrix (cs, ar1, toep), or
    D = L L'                  L (k, d) lower trapezoidal (reduced rank)

Names and meaning are glmmTMB's (Brooks et al. 2017, The R Journal 9(2)); ``hom`` has one standard deviation
for all effects, ``het`` one for each.  Deviations run from zero, and correlations over the closed interval in
which C is positive semidefinite, so that their ends are ordinary points.  Toeplitz correlations are given by
partial autocorrelations, each in [-1, 1], of which every positive semidefinite Toeplitz matrix has a sequence
(Durbin-Levinson; Barndorff-Nielsen & Schou 1973, J. Multivariate Anal. 3).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .base import Full
from .jets import Jet, variables

__all__ = ["PATTERNS", "Pattern", "pattern_of"]


class Pattern(Full):
    """A structure whose covariance is a function of few parameters x: deviations, correlations, loadings.

    The engine takes its D as it takes any other, derivatives with respect to all entries included; what is
    the structure's own is the chain rule from x, for the search and for inference.

    Attributes
    ----------
    least : int
        Fewest effects with which it is a structure of its own.
    """

    curved = True
    mixes = False
    least: int = 2

    @abstractmethod
    def kinds(self, k: int) -> list[str]:
        """What each parameter is: "sd", "cor" or "loading"."""

    @abstractmethod
    def covariance(self, x: np.ndarray, k: int) -> Jet:
        """D with its derivatives in the parameters, shape (k, k)."""

    @abstractmethod
    def coordinates(self, D: np.ndarray) -> np.ndarray:
        """Parameters of a covariance of the structure; of another one, parameters of one that is near."""

    @abstractmethod
    def lowest(self, k: int) -> float:
        """Lowest value of its correlations."""

    def written(self, columns: str, group: str) -> str:
        """As in a formula."""
        return f"{self.name}({columns} | {group})"

    def n_parameters(self, k: int) -> int:
        return len(self.kinds(k))

    def root(self, gram: np.ndarray) -> np.ndarray:
        # an effect of an ordered structure may be seen nowhere
        size = np.diag(gram)
        return super().root(gram + np.diag(np.where(size > 0.0, 0.0, size.max())))

    def bounds(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest values of the parameters, shapes (m,)."""
        low = {"sd": 0.0, "cor": self.lowest(k), "loading": -np.inf}
        high = {"sd": np.inf, "cor": 1.0, "loading": np.inf}
        kinds = self.kinds(k)
        return np.array([low[kind] for kind in kinds]), np.array([high[kind] for kind in kinds])

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pattern_of, (self.name,)


class _Correlated(Pattern):
    """D = diag(s) C(r) diag(s)."""

    tied = True

    def __init__(self, name: str, homogeneous: bool) -> None:
        self.name, self.homogeneous = name, homogeneous

    @abstractmethod
    def n_correlations(self, k: int) -> int:
        """Number of parameters of C."""

    @abstractmethod
    def correlation(self, r: Jet, k: int) -> Jet:
        """C, shape (k, k)."""

    @abstractmethod
    def correlations_near(self, weight: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Parameters of C from sums of products of deviations and of covariances, shapes (k, k)."""

    def kinds(self, k: int) -> list[str]:
        return ["sd"] * self._n_deviations(k) + ["cor"] * self.n_correlations(k)

    def lowest(self, k: int) -> float:
        return -1.0

    def _n_deviations(self, k: int) -> int:
        return 1 if self.homogeneous else k

    def shown(self, k: int) -> list[tuple[int, int]]:
        deviations = [(a, a) for a in range(self._n_deviations(k))]
        return deviations + [(a + 1, 0) for a in range(self.n_correlations(k))]

    def parameter_label(self, effects: Sequence[str], a: int, b: int) -> str:
        if a == b:
            return self.name if self.homogeneous else effects[a]
        return self.name if self.n_correlations(len(effects)) == 1 else f"{self.name}.{a}"

    def covariance(self, x: np.ndarray, k: int) -> Jet:
        own = variables(x)
        m = self._n_deviations(k)
        C = self.correlation(own[m:], k)
        if self.homogeneous:
            return C * (own[0] * own[0])
        s = own[:m]
        return C * s[:, None] * s[None, :]

    def coordinates(self, D: np.ndarray) -> np.ndarray:
        variances = np.maximum(np.diag(D), 0.0)
        if self.homogeneous:
            variances = np.full_like(variances, variances.mean())
        s = np.sqrt(variances)
        r = self.correlations_near(np.outer(s, s), D)
        low, high = self.bounds(s.size)
        x = np.concatenate([s[: self._n_deviations(s.size)], r])
        return np.clip(x, low, high)


class _Compound(_Correlated):
    """One correlation for all pairs."""

    def n_correlations(self, k: int) -> int:
        return 1

    def lowest(self, k: int) -> float:
        return -1.0 / (k - 1)

    def correlation(self, r: Jet, k: int) -> Jet:
        return r[0] * (1.0 - np.eye(k)) + np.eye(k)

    def correlations_near(self, weight: np.ndarray, products: np.ndarray) -> np.ndarray:
        off = ~np.eye(len(weight), dtype=bool)
        return np.array([_ratio(products[off], weight[off])])


class _Autoregressive(_Correlated):
    """Correlation r^|i - j|."""

    ordered = True

    def n_correlations(self, k: int) -> int:
        return 1

    def correlation(self, r: Jet, k: int) -> Jet:
        lag = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))

        def power(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            # 0^0 = 1, and derivatives of constants and straight lines are not 0 * x^-1
            first = lag * x ** np.maximum(lag - 1, 0)
            return x**lag, first, lag * (lag - 1) * x ** np.maximum(lag - 2, 0)

        return (r[0] + np.zeros((k, k))).through(power)

    def correlations_near(self, weight: np.ndarray, products: np.ndarray) -> np.ndarray:
        # effects without variance tell nothing: then of the nearest that do, positive where no pair says
        for lag in range(1, len(weight)):
            if np.any(np.diag(weight, lag) > 0.0):
                power = _ratio(np.diag(products, lag), np.diag(weight, lag))
                return np.array([np.sign(power) * np.abs(power) ** (1.0 / lag)])
        return np.zeros(1)


class _Toeplitz(_Correlated):
    """A correlation for every lag, through partial autocorrelations."""

    ordered = True

    def n_correlations(self, k: int) -> int:
        return k - 1

    def correlation(self, r: Jet, k: int) -> Jet:
        one = r[0] * 0.0 + 1.0
        acf, phi, left = [one], list[Jet](), one
        for j in range(k - 1):
            partial = r[j]
            new = partial * left
            for i, coefficient in enumerate(phi):
                new = new + coefficient * acf[j - i]
            acf.append(new)
            phi = [phi[i] - partial * phi[j - 1 - i] for i in range(j)] + [partial]
            left = left * (1.0 - partial * partial)
        lag = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
        return Jet.stack(acf)[lag]

    def correlations_near(self, weight: np.ndarray, products: np.ndarray) -> np.ndarray:
        k = len(weight)
        acf = [1.0] + [_ratio(np.diag(products, lag), np.diag(weight, lag)) for lag in range(1, k)]
        partials, phi, left = np.zeros(k - 1), np.zeros(0), 1.0
        for j in range(k - 1):
            if left <= _SPENT:
                break  # the process is determined by its past: later ones have no effect
            rest = acf[j + 1] - float(phi @ np.array(acf[j:0:-1])) if j else acf[1]
            partials[j] = np.clip(rest / left, -1.0, 1.0)
            phi = np.append(phi - partials[j] * phi[::-1], partials[j])
            left *= 1.0 - partials[j] ** 2
        return partials


class _Independent(_Correlated):
    """Uncorrelated effects with one variance."""

    def n_correlations(self, k: int) -> int:
        return 0

    def correlation(self, r: Jet, k: int) -> Jet:
        m = r.first.shape[0]
        return Jet(np.eye(k), np.zeros((m, k, k)), np.zeros((m, m, k, k)))

    def correlations_near(self, weight: np.ndarray, products: np.ndarray) -> np.ndarray:
        return np.zeros(0)


class _ReducedRank(Pattern):
    """D = L L', L (k, d) lower trapezoidal: a factor model without specific variances."""

    def __init__(self, d: int) -> None:
        self.name, self.d, self.least = f"rr({d})", d, max(2, d)

    def written(self, columns: str, group: str) -> str:
        return f"rr({columns} | {group}, {self.d})"

    def _places(self, k: int) -> list[tuple[int, int]]:
        return [(a, b) for b in range(min(self.d, k)) for a in range(b, k)]

    def kinds(self, k: int) -> list[str]:
        return ["loading"] * len(self._places(k))

    def lowest(self, k: int) -> float:
        return -1.0

    def covariance(self, x: np.ndarray, k: int) -> Jet:
        m, places = x.size, self._places(k)
        rows, columns = np.array(places).T
        L, dL = np.zeros((k, self.d)), np.zeros((m, k, self.d))
        L[rows, columns] = x
        dL[np.arange(m), rows, columns] = 1.0
        first = dL @ L.T
        second = np.einsum("iad,jbd->ijab", dL, dL)
        return Jet(L @ L.T, first + first.transpose(0, 2, 1), second + second.transpose(0, 1, 3, 2))

    def coordinates(self, D: np.ndarray) -> np.ndarray:
        k = len(D)
        scale = np.sqrt(np.maximum(np.diag(D), 0.0))
        safe = np.where(scale > 0.0, scale, 1.0)
        w, U = np.linalg.eigh(D / np.outer(safe, safe))
        root = (U * np.sqrt(np.maximum(w, 0.0)))[:, ::-1][:, : self.d] * scale[:, None]
        Q = np.linalg.qr(root[: self.d].T)[0]
        L = root @ Q
        return np.array([L[a, b] for a, b in self._places(k)])

    def is_singular(self, eigenvalues: np.ndarray, least: float) -> bool:
        return bool(np.sort(eigenvalues)[-self.d] < least)


_SPENT = 1e-12  # innovation variance of a Toeplitz correlation from which the process is its past's


def _ratio(products: np.ndarray, weight: np.ndarray) -> float:
    total = float(np.sum(weight))
    return float(np.sum(products)) / total if total > 0.0 else 0.0


_FIXED: dict[str, Pattern] = {
    "cs": _Compound("cs", False),
    "homcs": _Compound("homcs", True),
    "ar1": _Autoregressive("ar1", True),
    "hetar1": _Autoregressive("hetar1", False),
    "toep": _Toeplitz("toep", False),
    "homtoep": _Toeplitz("homtoep", True),
    "homdiag": _Independent("homdiag", True),
}
PATTERNS = tuple(_FIXED)


@lru_cache
def _reduced(d: int) -> Pattern:
    return _ReducedRank(d)


def pattern_of(name: str) -> Pattern | None:
    """The structure of a name (``"ar1"``, ``"rr(2)"``); None if there is none."""
    found = _FIXED.get(name)
    if found is not None:
        return found
    match = re.fullmatch(r"rr\(\s*(\d+)\s*\)", name)
    return _reduced(int(match[1])) if match and int(match[1]) > 0 else None
