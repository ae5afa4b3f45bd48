"""evaluate(theta, order): deviance, its exact gradient and the average information, from the equations.

One assembly and one factorization per theta.  Symbols (as in Bates et al. 2015, J. Stat. Softw. 67(1)):
D = lam lam' relative covariance, V = W^-1 + Z D Z', P = V^-1 - V^-1 X (X'V^-1 X)^-1 X'V^-1, e = P y,
N_t = d deviance / d D_t = sum_l (Z'PZ)_ll - (Z'e)_l (Z'e)_l' / sigma2   (V^-1 in place of P under ML).

N is finite and meaningful where lam is zero or singular; the gradient in theta is 2 N lam.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from ..equations.border import Border, check_residual, response_scale, solve_border
from ..equations.design import Design
from ..equations.equations import Equations, build_equations
from ..equations.layout import Block, layout_of
from ..equations.response import Response
from ..search.chain import gradient_in_basis, in_theta
from ..search.evaluation import Evaluation, Solution
from . import several
from .elimination import Elimination, apply_lam
from .floors import Floors
from .marginal import Marginal, marginal_of
from .plan import Plan, make_plan
from .several import SeveralLikelihood
from .small import SmallLikelihood, is_small
from .state import State

__all__ = ["Objective"]

_EPS = float(np.finfo(float).eps)
_ROUGHEST = 1e-2  # estimated rounding error of a deviance that is no use to a search


class Objective:
    """Deviance of a design as a function of theta.

    Parameters
    ----------
    design : Design
    reml : bool
    factorization : {"auto", "dense", "cholmod", "superlu"}
        Of S; "auto" takes what is predicted to cost less.
    equations : Equations, optional
        Built before for the same design.
    plan : Plan, optional
        Made before for the same equations, and used by no other objective: it holds the analysed factor.
    """

    def __init__(
        self,
        design: Design,
        reml: bool = True,
        factorization: str = "auto",
        equations: Equations | None = None,
        plan: Plan | None = None,
    ) -> None:
        if equations is None:
            equations = build_equations(design, layout_of(design))
        self.eq = equations
        self.reml = bool(reml)
        self._factorization = factorization
        if plan is not None and plan.factorization == factorization:
            self.plan = plan
        self.nu = equations.n - equations.p if reml else equations.n
        self.yy = response_scale(equations)
        self._factorizations = 0
        self._state: State | None = None
        if self.small is None:
            _ = self.elimination  # here, so that what does not fit in memory fails before the search

    @cached_property
    def small(self) -> SmallLikelihood | SeveralLikelihood | None:
        """The same likelihood in kernels, for theta in the equations' basis, where matrices are small."""
        # who asks for a factorization of S has it
        if self._factorization in ("auto", "dense") and is_small(self.eq):
            return SmallLikelihood(self.eq, self.reml, self.nu, self.yy)
        if self._factorization == "auto" and several.is_small(self.eq):
            return several.SeveralLikelihood(self.eq, self.reml, self.nu, self.yy)
        return None

    @property
    def n_factorizations(self) -> int:
        """Evaluations at a new theta so far."""
        return self._factorizations + (0 if self.small is None else self.small.n_factorizations)

    @cached_property
    def plan(self) -> Plan:
        """How S is stored and factored."""
        return make_plan(self.eq, self._factorization)

    @cached_property
    def elimination(self) -> Elimination:
        """Workspaces, and the factorization at the last theta."""
        return Elimination(self.eq, self.plan)

    def __getstate__(self) -> dict[str, object]:
        # factorizations and workspaces are built again when they are needed
        built = ("plan", "elimination", "small")
        return {k: v for k, v in self.__dict__.items() if k not in built} | {"_state": None}

    # -- public -------------------------------------------------------------------------------------------

    def respond(self, response: Response) -> None:
        """Go over to another response; the analysis of S and the workspaces stay, and nothing is built.

        Parameters
        ----------
        response : Response
            Of the same design.

        Raises
        ------
        PerfectFitError
            The fixed effects explain it exactly.
        """
        self.eq = self.eq.with_response(response)
        self.yy = response_scale(self.eq)
        if "elimination" in self.__dict__:
            self.elimination.eq = self.eq
        if "small" in self.__dict__ and self.small is not None:
            self.small.respond(self.eq, self.yy)
        self._factorizations = 0
        self._state = None

    @property
    def n_theta(self) -> int:
        """Number of covariance parameters."""
        return self.eq.layout.n_theta

    @property
    def solver_name(self) -> str:
        """Which factorization serves."""
        if self.small is not None:
            return self.small.name
        return "one block (no factorization needed)" if self.plan.q2 == 0 else self.elimination.factor.name

    def evaluate(
        self,
        theta: np.ndarray,
        order: int = 0,
        standard: bool = False,
        directions: Sequence[tuple[int, np.ndarray]] | None = None,
    ) -> Evaluation:
        """Evaluate the objective.

        Parameters
        ----------
        theta : ndarray, shape (n_theta,)
            Free entries of the relative covariance factors of the design's terms, one after another.
        order : {0, 1, 2}
            0: deviance; 1: and gradient; 2: and average information.
        standard : bool
            theta is that of the equations' basis, and so are the gradient and all else.
        directions : sequence of (int, ndarray), optional
            Terms and symmetric changes of their R D R' (k_t, k_t), in which the average information is given
            in place of the free entries; with `standard`.

        Returns
        -------
        Evaluation

        Raises
        ------
        numpy.linalg.LinAlgError
            The mixed-model equations are not positive definite to working precision (theta not finite or
            enormous).
        PerfectFitError
            No residual variation is left.
        """
        theta = np.asarray(theta, dtype=np.float64)
        if standard and self.small is not None and theta.shape == (self.n_theta,):
            return self.small.evaluate(theta.copy(), order)
        st = self._value(theta, standard)
        own_theta = st.standard if standard else st.theta
        if order == 0:
            return Evaluation(own_theta, st.deviance, st.sigma2, noise=st.noise)
        Ze = self._residual_products(st)
        info_b = self._average_information(st, Ze, directions) if order > 1 else None
        N_blocks = self._derivative(st, Ze)
        N_basis = [N_blocks[p.block][p.columns, p.columns] for p in self.eq.layout.places]
        if standard:
            # a search asks for nothing of the design's columns
            gradient = gradient_in_basis(self.eq, st.inner, N_basis)
            return Evaluation(
                own_theta, st.deviance, st.sigma2, gradient=gradient, N_basis=N_basis,
                information_basis=info_b, noise=st.noise,
            )  # fmt: skip
        own = in_theta(self.eq, st.lams, N_basis, info_b)
        return Evaluation(own_theta, st.deviance, st.sigma2, *own, N_basis, info_b, st.noise)

    def solution(self, theta: np.ndarray, standard: bool = False) -> Solution:
        """Fixed effects, their covariance and the conditional modes at theta.

        Parameters
        ----------
        theta : ndarray, shape (n_theta,)
        standard : bool
            As in `evaluate`.

        Returns
        -------
        dict with
            theta: of the design's columns;
            beta (p,), vcov, root (p, p): fixed effects of the kept columns, their covariance and its root;
            u: list of (q_t, k_t) random effects on the scale of the data; sigma2; deviance.
        """
        theta = np.asarray(theta, dtype=np.float64)
        if standard and self.small is not None and theta.shape == (self.n_theta,):
            return self.small.solution(theta)
        st = self._value(theta, standard)
        eq, lay = self.eq, self.eq.layout
        fixed = eq.fixed
        Ze = self._residual_products(st)
        u: list[np.ndarray] = []
        for t, place in enumerate(lay.places):
            ze = covaried(lay.blocks[place.block], Ze[place.block])[:, place.columns]
            inner = ze @ (st.inner[t] @ st.inner[t].T)
            u.append(np.linalg.solve(self.eq.term_basis(t), inner.T).T)
        return {
            "theta": st.theta,
            "beta": fixed.coefficients(st.b),
            "vcov": st.sigma2 * fixed.covariance(st.Ri),
            "root": np.sqrt(st.sigma2) * fixed.root(st.Ri),
            "u": u,
            "sigma2": st.sigma2,
            "deviance": st.deviance,
        }

    def at(self, theta: np.ndarray, standard: bool = False) -> Marginal:
        """The marginal model at theta: log-determinants, X'V^-1X, Z'V^-1X, Z'V^-1(y - Xb), Z'V^-1Z.

        Parameters
        ----------
        theta : ndarray, shape (n_theta,)
            Of the design's columns.
        standard : bool
            Products with the equations' columns in place of the design's.

        Returns
        -------
        Marginal

        Raises
        ------
        As `evaluate`.
        """
        factored = self.factored(theta)
        return marginal_of(*factored, partial(self.factored, factored[2].theta), standard)

    def factored(self, theta: np.ndarray) -> tuple[Equations, Elimination, State]:
        """The equations and their factorization at theta; as it is if it was the last."""
        state = self._value(np.asarray(theta, dtype=np.float64))
        return self.eq, self.elimination, state

    # -- value --------------------------------------------------------------------------------------------

    def _block_lams(self, lams: list[np.ndarray]) -> list[np.ndarray]:
        out = [np.zeros((b.k, b.k)) for b in self.eq.layout.blocks]
        for lam, place in zip(lams, self.eq.layout.places, strict=True):
            part = place.columns
            out[place.block][part, part] = lam
        return out

    def _value(self, theta: np.ndarray, standard: bool = False) -> State:
        st = self._state
        if st is not None and st.exact and np.array_equal(st.standard if standard else st.theta, theta):
            return st
        if theta.shape != (self.n_theta,):
            raise ValueError(f"theta has shape {theta.shape}; expected ({self.n_theta},).")
        self._state = None
        if not np.all(np.isfinite(theta)):
            raise np.linalg.LinAlgError("theta is not finite.")
        self._factorizations += 1
        eq, lay, el = self.eq, self.eq.layout, self.elimination
        given = None if standard else theta.copy()
        inside = theta.copy() if standard else eq.to_standard(theta)
        inner = eq.factors(inside)
        blocks = self._block_lams(inner)
        lam1 = blocks[0] if lay.has_lead else np.zeros((1, 1))
        lam2 = blocks[1:] if lay.has_lead else blocks
        D1 = lam1 @ lam1.T
        logdet = el.eliminate(lam1, D1)
        K2x = eq.A2x
        if lay.has_lead and lay.q2:
            K2x = el.minus_cells_transposed(el.level_apply(el.W, eq.A1x), K2x.copy())
        HA = _flat(el.level_apply(el.half, eq.A1x))
        Kxx = eq.Axx - HA.T @ HA
        logdet += el.factorize(lam2)
        U = apply_lam(eq, lam2, K2x, True)
        Y = el.solve(U)
        border = solve_border(Kxx - U.T @ Y)
        r2 = border.r2
        if not np.isfinite(logdet) or not np.isfinite(r2):
            raise np.linalg.LinAlgError("the mixed-model equations overflow at this theta.")
        check_residual(r2, self.yy)
        sigma2 = r2 / self.nu
        if self.reml:
            logdet += border.logdet + eq.fixed.logdet
        deviance = logdet + self.nu * (1.0 + np.log(2.0 * np.pi * sigma2)) - eq.log_w
        lost = self._lost(inner, Y, border)
        if _EPS * lost > _ROUGHEST:
            raise np.linalg.LinAlgError("rounding hides the deviance at this theta: variances are too large.")
        st = State(
            eq, given, inside, inner, lam1, D1, lam2, K2x, Kxx, U, Y, border.Ri, logdet, border.b, r2,
            deviance, sigma2, _EPS * lost,
        )  # fmt: skip
        self._state = st
        return st

    def _lost(self, inner: list[np.ndarray], Y: np.ndarray, border: Border) -> float:
        """Rounding error of the deviance in units of the machine's.

        The border loses what V^-1 takes from X'WX and y'Wy.  S, known to rounding times the largest entry of
        lam'A lam, passes its error on to the border's Schur complement through the border's solutions.
        """
        p, r2 = self.eq.p, border.r2
        largest = 0.0
        for t, (lam, place) in enumerate(zip(inner, self.eq.layout.places, strict=True)):
            if not (self.eq.layout.has_lead and place.block == 0):
                largest = max(largest, float(np.max(np.diag(self.eq.term_gram(t)) @ (lam * lam))))
        lost = self.nu * self.yy / r2 + largest
        if largest > 0.0:
            u = Y[:, p] - Y[:, :p] @ border.b
            lost += largest * self.nu * float(u @ u) / r2
        if self.reml:
            lost += float(np.sum(border.Ri * border.Ri))
            if largest > 0.0:
                lost += largest * float(np.sum((Y[:, :p] @ border.Ri.T) ** 2))
        return lost

    # -- gradient -----------------------------------------------------------------------------------------

    def _projected(self, st: State) -> np.ndarray:
        """Z_1'V_1^-1[X y] = F A_1x of every level, shape (q1, k1, p + 1)."""
        if st.FA is None:
            st.FA = self.elimination.level_apply(self.elimination.F, self.eq.A1x)
        return st.FA

    def _residual_products(self, st: State) -> list[np.ndarray]:
        """Z'We = Z'Py per block, shape (q, k) each, in the units of Z'y."""
        eq, lay, el = self.eq, self.eq.layout, self.elimination
        p, b = eq.p, st.b
        d2 = apply_lam(eq, st.lam2, (st.Y[:, p] - st.Y[:, :p] @ b)[:, None], False)
        out = []
        d1 = np.zeros((lay.q1, lay.k1, 1))
        contrast = np.r_[-b, 1.0]
        if lay.has_lead:
            ze = self._projected(st).reshape(-1, p + 1) @ contrast
            ze = ze.reshape(lay.q1, lay.k1, 1)
            if lay.q2:
                ze += el.level_apply(el.F, el.minus_cells(d2, np.zeros_like(ze)))
            out.append(ze[:, :, 0])
            d1 = np.ascontiguousarray((ze[:, :, 0] @ st.D1)[:, :, None])
        if lay.q2:
            raw2 = (eq.A2x @ contrast)[:, None] - eq.A22 @ d2
            el.minus_cells_transposed(d1, raw2)
            for r, block in enumerate(lay.rest):
                part = raw2[int(lay.offsets[r]) : int(lay.offsets[r + 1]), 0]
                out.append(part.reshape(block.q, block.k))
        return out

    def _derivative(self, st: State, Ze: list[np.ndarray]) -> list[np.ndarray]:
        """N of every block: sum_l (Z'PZ)_ll - (Z'e)_l (Z'e)_l'/sigma2, shape (k, k).

        Where levels are related, sum_lm A_lm (.)_lm.
        """
        floors = Floors(self.eq, st.inner)
        Q = self._information_blocks(st, self._floored(floors))
        if floors.raised(Q):
            Q = self._information_blocks(st, self._floored(floors))
        blocks = self.eq.layout.blocks
        return [q - ze.T @ covaried(b, ze) / st.sigma2 for q, ze, b in zip(Q, Ze, blocks, strict=True)]

    def _floored(self, floors: Floors) -> list[np.ndarray] | None:
        """Factors of the rest's blocks, regular; None if they are so as they are."""
        if not floors.lifted:
            return None
        blocks = self._block_lams(floors.factors())
        return blocks[1:] if self.eq.layout.has_lead else blocks

    def _information_blocks(self, st: State, floored: list[np.ndarray] | None) -> list[np.ndarray]:
        """sum_l (Z'PZ)_ll of every block (V^-1 in place of P under ML), shape (k, k), for floored factors.

        Where levels are related, lam'Z'PZ lam = Q - Q S^-1 Q, and
        sum_lm A_lm (.)_lm = q I - sum_lm Q_lm (S^-1)_lm.
        """
        eq, lay, el = self.eq, self.eq.layout, self.elimination
        p = eq.p
        lam2, Y, Ri = st.lam2, st.Y, st.Ri
        if floored is not None:
            # the same theta but for singular directions lifted; W and F of the lead are unchanged
            lam2 = floored
            st.exact = False
            self._factorizations += 1
            el.factorize(lam2)
            if self.reml and p:
                U = apply_lam(eq, lam2, st.K2x, True)
                Y = el.solve(U)
                Ri = solve_border(st.Kxx - U.T @ Y).Ri
        N1, T = el.traces(lam2)
        out = []
        # half = S^-1 U_x R^-T, so that half half' is the fixed effects' share of T_22
        half = Y[:, :p] @ Ri.T if self.reml and p else None
        if lay.has_lead:
            k1 = lay.k1
            E = _flat(np.ascontiguousarray(el.F.transpose(0, 2, 1))).T @ _flat(eq.A1)
            N = 0.5 * (E + E.T) - 0.5 * (N1 + N1.T)
            if half is not None:
                FG = self._projected(st)[:, :, :p]
                if lay.q2:
                    G = np.zeros((lay.q1, k1, p))
                    el.minus_cells(apply_lam(eq, lam2, Y[:, :p], False), G)
                    FG = FG + el.level_apply(el.F, G)
                flat = FG.reshape(lay.q1, k1 * p)
                gram = (flat.T @ flat).reshape(k1, p, k1, p)
                N = N - np.einsum("aicj,ij->ac", gram, Ri.T @ Ri)
            out.append(N)
        for r, block in enumerate(lay.rest):
            T_r = T[r].copy()
            if half is not None:
                part = half[lay.rest_columns(r)].reshape(block.q, block.k, p)
                flat = part.transpose(1, 0, 2).reshape(block.k, -1)
                if block.relation is None:
                    T_r += flat @ flat.T
                else:
                    Qh = block.relation.precision @ part.reshape(block.q, -1)
                    T_r += np.einsum("lap,lbp->ab", part, Qh.reshape(part.shape))
            # Z'PZ = lam^-T (I - T) lam^-1 on the level's own block
            mid = block.q * np.eye(block.k) - 0.5 * (T_r + T_r.T)
            inverse = np.linalg.inv(lam2[r])
            N = inverse.T @ mid @ inverse
            out.append(0.5 * (N + N.T))
        return out

    # -- average information ------------------------------------------------------------------------------

    def _average_information(
        self,
        st: State,
        Ze: list[np.ndarray],
        directions: Sequence[tuple[int, np.ndarray]] | None = None,
    ) -> np.ndarray:
        """Average information in the free entries of R D R', sigma2 profiled out (Gilmour et al. 1995).

        R D R' is the relative covariance in the equations' basis, where it is well conditioned.  For entry
        (a, b) of it the working variate is f = Z_t w, w_l = E_ab (Z'e)_l; the information is
        f'P f / sigma2 with the direction of sigma2 (f_0 = y, f_0'P y = r2) taken out.
        """
        eq, lay, el = self.eq, self.eq.layout, self.elimination
        p, m = eq.p, self.n_theta if directions is None else len(directions)
        # w_l[:, i] = C[i] (Z'e)_l on the block's own columns and basis
        C = [np.zeros((m, b.k, b.k)) for b in lay.blocks]
        for i, (t, change) in enumerate(directions or ()):
            part = lay.places[t].columns
            C[lay.places[t].block][i, part, part] = change
        for place in lay.places if directions is None else ():
            part = place.columns
            for i, (a, b) in enumerate(place.entries, start=place.theta.start):
                own = C[place.block][i, part, part]
                own[a, b] = own[b, a] = 1.0
        # the direction E_ab of D moves V by Z (A (x) E_ab) Z'
        Ae = [covaried(b, ze) for b, ze in zip(lay.blocks, Ze, strict=True)]
        fe = np.zeros(m)
        for c, ze, ae in zip(C, Ze, Ae, strict=True):
            fe += np.einsum("iab,ab->i", c, ze.T @ ae)

        def variates(i: int) -> np.ndarray:
            k = C[i].shape[1]
            return (Ae[i] @ C[i].transpose(2, 1, 0).reshape(k, k * m)).reshape(-1, k, m)

        # f = Z_1 w_1 + Z_2 w_2 with the leading term integrated out: K = [f Z_2 X]'V_1^-1 f
        Kff, Xf = np.zeros((m, m)), np.zeros((p, m))
        if lay.has_lead:
            Kff, Xf = el.level_information(Ze[0], C[0], self._projected(st), p)
        w2 = Zf2 = np.zeros((0, m))
        if lay.q2:
            w1 = variates(0)
            first = int(lay.has_lead)
            w2 = np.concatenate([variates(i).reshape(-1, m) for i in range(first, len(lay.blocks))])
            Zf2 = eq.A22 @ w2
            Xf += eq.Z2Q.T @ w2
            if lay.has_lead:
                cells = el.minus_cells(-w2, np.zeros_like(w1))  # B w_2
                WB = el.level_apply(el.W, cells)
                el.minus_cells_transposed(WB, Zf2)
                Xf -= _flat(eq.Z1Q).T @ _flat(WB)
                mixed = _flat(w1).T @ _flat(el.level_apply(el.F, cells))
                Kff += mixed + mixed.T
            Kff += w2.T @ Zf2
            if lay.has_lead:
                turned = np.ascontiguousarray(el.F.transpose(0, 2, 1))
                el.minus_cells_transposed(-el.level_apply(turned, w1), Zf2)
        Uf = apply_lam(eq, st.lam2, Zf2, True)
        Yf = el.solve(Uf)
        C = Kff - Uf.T @ Yf
        if p:
            h = st.Ri @ (Xf - st.U[:, :p].T @ Yf)
            C = C - h.T @ h
        info = (C - np.outer(fe, fe) / st.r2) / st.sigma2
        return 0.5 * (info + info.T)


def covaried(block: Block, z: np.ndarray) -> np.ndarray:
    """A z of a block's levels, (q, k) -> (q, k): z itself where they are independent."""
    return z if block.relation is None else block.relation.times(z)


def _flat(cube: np.ndarray) -> np.ndarray:
    # reshape(-1, m) cannot infer the first length when m is 0
    return cube.reshape(cube.shape[0] * cube.shape[1], cube.shape[2])
