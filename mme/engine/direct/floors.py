"""Derivatives where the factor of a term of the rest is singular.

T = S^-1 says nothing of Z'PZ in the null directions of lam.  The traces are then taken at
D + floor / (mean cross-product): truncation and cancellation errors are both about 1e-8 relative.
"""

from __future__ import annotations

import numpy as np

from ..covariance.factors import factor_psd
from ..equations.equations import Equations

__all__ = ["Floors"]

_FLOOR = 1e-8


class Floors:
    """What is added to which terms at one theta.

    Parameters
    ----------
    eq : Equations
    inner : list of ndarray, shapes (k_t, k_t)
        Factors of R D R' of every term.

    Attributes
    ----------
    lifted : list of int
        Terms of the rest whose factor is singular to within the floor, scaled by their cross-products.
    """

    def __init__(self, eq: Equations, inner: list[np.ndarray]) -> None:
        self._eq, self._inner = eq, inner
        lay = eq.layout
        self.lifted: list[int] = []
        for t, (lam, place) in enumerate(zip(inner, lay.places, strict=True)):
            if lay.has_lead and place.block == 0:
                continue
            if place.k == 1:
                smallest = abs(float(lam[0, 0])) * float(np.sqrt(eq.term_gram(t)[0, 0]))
            else:
                scaled = lam * np.sqrt(np.diag(eq.term_gram(t)))[:, None]
                smallest = float(np.linalg.svd(scaled, compute_uv=False)[-1])
            if smallest**2 < _FLOOR:
                self.lifted.append(t)
        self._floors = dict.fromkeys(self.lifted, _FLOOR)

    def raised(self, Q: list[np.ndarray]) -> bool:
        """Raise them where needed, given sum_l (Z'PZ)_ll of every block; whether there was need to.

        A term without variance of its own beside another that absorbs it has little information left: the
        floor is then far below what matters for it and rounding prevails.
        """
        need = False
        for t in self.lifted:
            place = self._eq.layout.places[t]
            block = self._eq.layout.blocks[place.block]
            own = np.diag(Q[place.block])[place.columns]
            share = np.max(own / (block.q * np.diag(self._eq.term_gram(t))))
            if share < 1e-2:
                self._floors[t] = min(_FLOOR / max(share, 1e-8), 1.0)
                need = True
        return need

    def factors(self) -> list[np.ndarray]:
        """Factors of every term with the lifted ones' singular directions regular."""
        lams = list(self._inner)
        for t in self.lifted:
            scale = np.sqrt(np.diag(self._eq.term_gram(t)))
            scaled = lams[t] * scale[:, None]
            lams[t] = factor_psd(scaled @ scaled.T + self._floors[t] * np.eye(scale.size)) / scale[:, None]
        return lams
