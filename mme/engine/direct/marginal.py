"""The marginal model at one theta: V^-1 applied to X, y and Z, on the scale of the design's own columns.

V = W^-1 + Z D Z'.  What a likelihood in other parameters, tests and second derivatives need of a
factorization; everything costs triangular solves only.

Levels with a known covariance A = T T' appear as the independent ones of u = T v: Z stands for Z T in `zr`,
`zx`, `zq`, `times` and `trace_products`, so that sums over levels mean the same for all terms.  Conditional
covariances and `prior_inverse` are of u itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..covariance.derivatives import turned_gram
from ..equations.equations import Equations
from ..equations.prediction import PriorInverse, PriorRows
from .elimination import Elimination, apply_lam
from .second import LevelSums, Products, block_products
from .state import State
from .variances import block_variances

__all__ = ["Marginal", "marginal_of"]

Factored = tuple[Equations, Elimination, State]


@dataclass(frozen=True, eq=False)
class Marginal:
    """Cross-products in the metric V^-1 at one theta; see `mme.engine.direct.objective.Objective.at`.

    "In the basis" below: of the design's own columns, or of the equations' columns (orthonormal X, random
    columns orthonormal on average), where nothing loses digits to an uncentred covariate, if `standard`.

    Attributes
    ----------
    theta : ndarray, shape (n_theta,)
        Of the design's columns.
    logdet : float
        log|V|, under REML + log|X'V^-1 X| of the kept columns.
    beta : ndarray, shape (rank,)
        Generalized least squares estimate of the kept columns' coefficients (of the design's columns).
    r2 : float
        (y - X beta)'V^-1 (y - X beta).
    root : ndarray, shape (rank, rank)
        Upper triangular R with R'R = X'V^-1 X, kept columns, in the basis.
    zr : list of ndarray, shapes (q_t, k_t)
        Z'V^-1 (y - X beta), per term of the design, in the basis.
    zx : list of ndarray, shapes (q_t, k_t, rank)
        Z'V^-1 X, kept columns, in the basis.
    root_q, zq : as root and zx
        In an orthonormal basis Q of the kept columns of X, whatever `standard`: no digits are lost to their
        units.
    factored : callable
        The equations, and their factorization at this theta.
    standard : bool
    """

    theta: np.ndarray
    logdet: float
    beta: np.ndarray
    r2: float
    root: np.ndarray
    zr: list[np.ndarray]
    zx: list[np.ndarray]
    root_q: np.ndarray
    zq: list[np.ndarray]
    factored: Callable[[], Factored]
    standard: bool = False

    def times(self, w: list[np.ndarray]) -> list[np.ndarray]:
        """Z'V^-1 Z w, exact where the covariance is singular.

        Parameters
        ----------
        w : list of ndarray, shapes (q_t, k_t, m)
            m vectors of random effects, per term of the design, in the basis.

        Returns
        -------
        list of ndarray, shapes (q_t, k_t, m)
        """
        eq, el, st = self.factored()
        lay, m = eq.layout, w[0].shape[2]
        blocks = [np.zeros((b.q, b.k, m)) for b in lay.blocks]
        for place, basis, w_t in zip(lay.places, self._bases(eq), w, strict=True):
            relation = lay.blocks[place.block].relation
            here = w_t if relation is None else relation.related(w_t)
            here = here if basis is None else np.matmul(basis, here)
            blocks[place.block][:, place.columns] = here
        rest = blocks[1:] if lay.has_lead else blocks
        w2 = np.concatenate([x.reshape(-1, m) for x in rest]) if rest else np.zeros((0, m))
        return self._by_term(eq, *el.marginal_product(st, blocks[0] if lay.has_lead else None, w2))

    def trace_products(self, turns: Sequence[np.ndarray] | None = None) -> Products:
        """Sums over the levels l, m of terms s and t of G_lm[a, c] G_lm[b, d], G = Z'V^-1 Z in the basis.

        Parameters
        ----------
        turns : sequence of ndarray, shapes (k_t, k_t), optional
            B per term of the design: B'G B in place of G.  Directions of large and of no variance keep their
            digits only if they are turned apart before the products are taken.

        Returns
        -------
        dict of (s, t) to ndarray, shapes (k_s, k_s, k_t, k_t), indices a, b, c, d
        """
        eq, el, st = self.factored()
        places, out = eq.layout.places, {}
        bases = self._bases(eq)
        of_turns = None
        if turns is not None:
            of_turns = [np.eye(block.k) for block in eq.layout.blocks]
            for place, basis, B in zip(places, bases, turns, strict=True):
                of_turns[place.block][place.columns, place.columns] = B if basis is None else basis @ B
            bases = [None] * len(places)
        of_blocks = block_products(eq, el, st, of_turns)
        for s, (at_s, R_s) in enumerate(zip(places, bases, strict=True)):
            for t, (at_t, R_t) in enumerate(zip(places, bases, strict=True)):
                gram = of_blocks[at_s.block, at_t.block][
                    at_s.columns, at_s.columns, at_t.columns, at_t.columns
                ]
                out[s, t] = turned_gram(gram, R_s, R_t)
        return out

    def level_sums(self, h: list[np.ndarray]) -> LevelSums | None:
        """Sums over the levels of the only factor, its terms side by side; None where there are others.

        Parameters
        ----------
        h : list of ndarray, shapes (q, k_t, w)
            In the equations' basis, in which the marginal model must be.
        """
        if not self.standard:
            return None
        eq, el, _ = self.factored()
        if eq.layout.q2:
            return None
        return LevelSums.of(eq, el, h[0] if len(h) == 1 else np.concatenate(h, axis=1))

    def conditional_covariances(self) -> list[np.ndarray]:
        """Covariance of every level's effects given y, b and theta, divided by sigma2, in the basis.

        The levels' own blocks of D - D Z'V^-1 Z D, as sums of squares: no digits cancel.

        Returns
        -------
        list of ndarray, shapes (q_t, k_t, k_t)
        """
        eq, el, st = self.factored()
        blocks, out = block_variances(eq, el, st), []
        for place, basis in zip(eq.layout.places, self._bases(eq), strict=True):
            C = blocks[place.block][:, place.columns, place.columns]
            if basis is not None:
                inverse = np.linalg.inv(basis)
                C = np.matmul(np.matmul(inverse, C), inverse.T)
            out.append(C)
        return out

    def prior_inverse(self) -> PriorInverse:
        """What variances of linear predictors are made of; of a marginal model in the equations' basis."""
        assert self.standard
        eq, el, st = self.factored()
        lay = eq.layout
        blocks = [np.zeros((b.q, b.k, eq.p)) for b in lay.blocks]
        for place, z in zip(lay.places, self.zq, strict=True):
            relation = lay.blocks[place.block].relation
            blocks[place.block][:, place.columns] = z if relation is None else relation.related(z)
        rest = blocks[1:] if lay.has_lead else blocks
        z2 = np.concatenate([x.reshape(-1, eq.p) for x in rest]) if rest else np.zeros((0, eq.p))
        variances = block_variances(eq, el, st)

        def columns(asked: np.ndarray) -> np.ndarray:
            unit = np.zeros((lay.q2, asked.size))
            unit[asked, np.arange(asked.size)] = 1.0
            return el.prior_solve(st, unit).T

        return PriorInverse(
            root=self.root_q,
            lead_x=np.matmul(st.D1, blocks[0]) if lay.has_lead else np.zeros((0, 1, eq.p)),
            rest_x=apply_lam(eq, st.lam2, apply_lam(eq, st.lam2, z2, True), False),
            W=el.W,
            own=lambda levels: variances[0][levels],
            columns=PriorRows(columns, lay.q2),
        )

    def _bases(self, eq: Equations) -> list[np.ndarray | None]:
        return [None] * len(eq.layout.places) if self.standard else list(eq.term_bases())

    def _by_term(self, eq: Equations, lead: np.ndarray | None, rest: np.ndarray) -> list[np.ndarray]:
        return _split(eq, self._bases(eq), lead, rest)


def marginal_of(
    eq: Equations, el: Elimination, st: State, factored: Callable[[], Factored], standard: bool
) -> Marginal:
    """The marginal model at an evaluated state."""
    p, fixed = eq.p, eq.fixed
    # the border's solutions are there already: Z'V^-1 [Q y] needs no solve
    d2 = apply_lam(eq, st.lam2, st.Y, False)
    lead = el.level_apply(el.F, eq.A1x) if eq.layout.has_lead else None
    bases: list[np.ndarray | None] = [None if standard else R for R in eq.term_bases()]
    zqy = _split(eq, bases, *el.back(st, lead, eq.A2x, d2))
    contrast = np.r_[-st.b, 1.0]
    root_q, zq = np.linalg.inv(st.Ri).T if p else np.zeros((0, 0)), [z[:, :, :p] for z in zqy]
    root, zx = root_q, zq
    if p and not standard:
        inverse = np.linalg.inv(fixed.T)
        root, zx = root @ inverse, [z @ inverse for z in zx]
    return Marginal(
        theta=st.theta,
        logdet=st.logdet - eq.log_w,
        beta=fixed.coefficients(st.b),
        r2=st.r2,
        root=root,
        zr=[z @ contrast for z in zqy],
        zx=zx,
        root_q=root_q,
        zq=zq,
        factored=factored,
        standard=standard,
    )


def _split(
    eq: Equations, bases: list[np.ndarray | None], lead: np.ndarray | None, rest: np.ndarray
) -> list[np.ndarray]:
    """By term of the design, in the basis."""
    lay = eq.layout
    blocks = [] if lead is None else [lead]
    for r, block in enumerate(lay.rest):
        part = rest[lay.rest_columns(r)]
        blocks.append(part.reshape(block.q, block.k, rest.shape[1]))
    out = []
    for place, basis in zip(lay.places, bases, strict=True):
        part, relation = blocks[place.block][:, place.columns], lay.blocks[place.block].relation
        if relation is not None:
            part = relation.unrelated(np.ascontiguousarray(part))
        out.append(part if basis is None else np.matmul(basis.T, part))
    return out
