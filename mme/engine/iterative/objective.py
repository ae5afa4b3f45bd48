"""evaluate(theta, order) without a factorization: gradient with Monte Carlo error, average information.

The same quantities as `mme.engine.direct.objective`, from block conjugate gradients
(`mme.engine.iterative.pcg`) instead of a Cholesky factor of the Schur complement S. Only traces of S^-1 are
stochastic (Hutchinson 1990, Commun. Stat. Simul. 19; average information by Monte Carlo in animal breeding:
Matilainen et al. 2013, PLoS ONE 8): the shares of the leading term's own blocks, of the fixed effects and of
the residuals are computed. A Rademacher probe z is used effect by effect (the entries of one effect of one
factor at a time): the noise of a large variance would otherwise drown the derivative with respect to one that
is zero. With S = P + O, P block-diagonal, a sample of the trace of S^-1 is

    tr(P^-1 + K) + z'(S^-1 - P^-1 + P^-1 O P^-1 - K)z,

where P^-1 O P^-1 has no diagonal and the share K of vectors Q that are smooth over an effect (see
`SchurSystem`), K = QQ'G + GQQ' - QQ'GQQ' for a symmetric G (Hutch++: Meyer, Musco, Musco & Woodruff 2021), is
known from the solves for Q. The noise is then of second order in the coupling between levels; P^-1 O P^-1 z
costs the product with S that starts the conjugate gradients.

Every term of the rest is written in the eigenvectors of its relative covariance, D = U s^2 U', lam = U s,
with s floored at 1e-4 of the scale of its columns: a derivative with respect to D then divides by no zero,
and for each pair of directions the sample is the difference that vanishes with the smaller s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np

from ..covariance.structure import triangular
from ..equations.border import check_residual, response_scale, solve_border
from ..equations.equations import Equations
from ..equations.layout import Block
from ..search.chain import in_theta
from ..search.evaluation import Evaluation
from .information import average_information, flat
from .marginal import IterativePoint
from .pcg import SchurSystem
from .probes import Deflation, ProbeSolves, batches, probe_block
from .state import EigenRoot, IterativeSolution, SolvedState, SolveReport

__all__ = ["IterativeObjective", "StochasticEvaluation"]

_FLOOR = 1e-8  # smallest relative variance times mean cross-product, as in mme.engine.direct.objective
_TIGHTEST = 1e-10  # relative tolerance of a solve
_MOST_ITERATIONS = 500  # of conjugate gradients in one solve


@dataclass(frozen=True, eq=False)
class StochasticEvaluation(Evaluation):
    """An `mme.engine.direct.objective.Evaluation` whose N has Monte Carlo error; the deviance is NaN.

    Attributes
    ----------
    samples : list of ndarray, shapes (n_probes, k_t, k_t)
        `N_basis` by probe and term; `N_basis` is their mean.
    joint : ndarray, shape (n_theta + 1, n_theta + 1), or None
        Average information in the free entries of R D R' (as `information_basis`) and sigma2.
    slope : ndarray, shape (n_theta,), or None
        Derivative of the profiled sigma2 with respect to the free entries of R D R'.
    iterations : int
        Iterations of conjugate gradients.
    residual : float
        Largest relative residual left.
    solved : bool
        Whether the conjugate gradients reached their tolerance.
    """

    samples: list[np.ndarray] | None = None
    joint: np.ndarray | None = None
    slope: np.ndarray | None = None
    iterations: int = 0
    residual: float = 0.0
    solved: bool = True


class IterativeObjective:
    """Gradient and information of the deviance of large designs.

    Parameters
    ----------
    equations : Equations
    reml : bool
    probes : int
        Number of Rademacher probes; `set_probes` changes it.
    seed : int
        Of the probes; the same seed gives the same fit.
    """

    def __init__(self, equations: Equations, reml: bool = True, probes: int = 12, seed: int = 0) -> None:
        self.eq = equations
        self.reml = bool(reml)
        self.nu = equations.n - equations.p if reml else equations.n
        self.yy = response_scale(equations)
        self.seed = int(seed)
        self.max_iterations = _MOST_ITERATIONS
        self.n_evaluations = 0
        self.cg_iterations = 0
        self._previous: tuple[list[np.ndarray], np.ndarray] | None = None
        self._theta: np.ndarray | None = None  # at which the system is
        self.set_probes(probes)

    @property
    def raw_equations(self) -> Equations:
        """The cross-products of the design's own columns, as the direct path has them."""
        return self.eq

    @property
    def quadrature_system(self) -> SchurSystem:
        """The system whose log-determinant quadratures give."""
        return self.system

    @property
    def known_logdet(self) -> float:
        """What that has more than the deviance."""
        return 0.0

    @cached_property
    def system(self) -> SchurSystem:
        """S at the last theta, and the workspaces of the solves."""
        return SchurSystem(self.eq)

    @cached_property
    def probes(self) -> np.ndarray:
        """The probes in use, int8, shape (q2, n_probes)."""
        return probe_block(self.eq.layout.q2, self.n_probes, self.seed)

    def __getstate__(self) -> dict[str, object]:
        # the system and the probes are made again, from the cross-products and the seed
        built = ("system", "probes")
        return {k: v for k, v in self.__dict__.items() if k not in built} | {
            "_previous": None,
            "_theta": None,
        }

    def __getattr__(self, name: str) -> NoReturn:
        # only reached for what is not there
        raise AttributeError(
            f"an iterative fit has no {name!r}: there is no factorization. Fit with solver='direct' for it, "
            "if mme.preflight says that it is affordable."
        )

    # -- the design's terms -------------------------------------------------------------------------------

    @property
    def n_theta(self) -> int:
        """Number of covariance parameters."""
        return self.eq.layout.n_theta

    @property
    def solver_name(self) -> str:
        """What the results say."""
        return "iterative (block PCG)"

    def set_probes(self, number: int) -> None:
        """Use this many probes; those in use stay, in the same order, when the number grows."""
        self.n_probes = number
        self.__dict__.pop("probes", None)

    def fresh_probes(self, number: int) -> np.ndarray:
        """Probes independent of those in use, int8, shape (q2, number)."""
        return probe_block(self.eq.layout.q2, number, self.seed + 1_000_003)

    def _floored_root(self, t: int, lam: np.ndarray) -> EigenRoot:
        """U, s of the term's relative covariance in the equations' basis, s floored."""
        d = np.sqrt(np.diag(self.eq.term_gram(t)))
        inner = self.eq.term_basis(t) @ lam
        structure = self.eq.layout.places[t].structure
        U, s = structure.eigen(inner)
        for block in map(list, structure.blocks(s.size)):
            s[block] = np.maximum(s[block], np.sqrt(_FLOOR) / np.sqrt(np.mean(d[block] ** 2)))
        return EigenRoot(U, s)

    # -- evaluation ---------------------------------------------------------------------------------------

    def evaluate(self, theta: np.ndarray, order: int = 1, tol: float = 1e-4) -> StochasticEvaluation:
        """Evaluate gradient and information.

        Parameters
        ----------
        theta : ndarray, shape (n_theta,)
        order : {1, 2}
            1: sigma2, N and gradient; 2: and average information.
        tol : float
            Relative tolerance of the solves, 0.01 at most for the traces' and at least 1e-3 for the
            information's, whose errors are squared.

        Returns
        -------
        StochasticEvaluation

        Raises
        ------
        numpy.linalg.LinAlgError
            The equations overflow at this theta.
        PerfectFitError
            No residual variation is left.
        """
        st = self._solve_state(np.asarray(theta, dtype=np.float64), tol)
        Ze = self._residual_products(st)
        samples = self._derivatives(st, Ze)
        N_basis = [M.mean(axis=0) for M in samples]
        info_basis = joint = slope = None
        if order > 1:
            info_tol = min(0.02, max(tol, 1e-3))
            info_basis, joint, slope, sol = average_information(
                self.eq, self.system, st, Ze, info_tol, self.nu, self.max_iterations
            )
            st.report.add(sol)
            self.cg_iterations += sol.iterations
        own = in_theta(self.eq, st.lams, N_basis, info_basis)
        return StochasticEvaluation(
            theta=st.theta,
            deviance=np.nan,
            sigma2=st.sigma2,
            **own._asdict(),
            N_basis=N_basis,
            information_basis=info_basis,
            samples=samples,
            joint=joint,
            slope=slope,
            iterations=st.report.iterations,
            residual=st.report.residual,
            solved=st.report.solved,
        )

    def solution(self, theta: np.ndarray, tol: float = 1e-8) -> IterativeSolution:
        """Fixed effects, their covariance and the conditional modes at theta, without probes.

        Returns
        -------
        dict with
            beta (p,), vcov, root (p, p): fixed effects of the kept columns, their covariance and its root;
            u: list of (q_t, k_t) random effects on the scale of the data; sigma2;
            logdet: the part of log|M| that is known without log|S|; iterations, residual, solved.
        """
        st = self._solve_state(np.asarray(theta, dtype=np.float64), tol, probes=False)
        Ze = self._residual_products(st)
        fixed = self.eq.fixed
        u = []
        for t, place in enumerate(self.eq.layout.places):
            ze = Ze[place.block][:, self.eq.layout.places[t].columns] @ self.eq.term_basis(t)
            u.append(ze @ (st.lams[t] @ st.lams[t].T))
        logdet = self.system.logdet1
        if self.reml:
            logdet += st.logdet_x + fixed.logdet
        return {
            "beta": fixed.coefficients(st.b),
            "vcov": st.sigma2 * fixed.covariance(st.Ri),
            "root": np.sqrt(st.sigma2) * fixed.root(st.Ri),
            "u": u,
            "sigma2": st.sigma2,
            "logdet": logdet,
            "iterations": st.report.iterations,
            "residual": st.report.residual,
            "solved": st.report.solved,
        }

    def at(self, theta: np.ndarray, probes: int) -> IterativePoint:
        """Products with V^-1 at theta of the design's columns; `probes`: of second derivatives' traces."""
        return IterativePoint(self, theta, probes)

    def solved(self, theta: np.ndarray, tol: float) -> SolvedState:
        """The solutions for X and y at theta, without probes."""
        return self._solve_state(np.asarray(theta, dtype=np.float64), tol, probes=False)

    def system_at(self, theta: np.ndarray) -> SchurSystem:
        """S at theta; as it is if it was the last."""
        if self._theta is None or not np.array_equal(self._theta, theta):
            self._set_theta(theta)
        return self.system

    # -- solves -------------------------------------------------------------------------------------------

    def _set_theta(self, theta: np.ndarray) -> tuple[list[np.ndarray], list[EigenRoot], list[np.ndarray]]:
        lay = self.eq.layout
        if theta.shape != (self.n_theta,) or not np.all(np.isfinite(theta)):
            raise np.linalg.LinAlgError(f"theta must be {self.n_theta} finite numbers; it is {theta}.")
        lams = [p.structure.lam(theta[p.theta], p.k) for p in lay.places]
        blocks = [np.zeros((b.k, b.k)) for b in lay.blocks]
        roots = []
        for t, (lam, place) in enumerate(zip(lams, lay.places, strict=True)):
            part = self.eq.layout.places[t].columns
            root = self._floored_root(t, lam)
            roots.append(root)
            if lay.has_lead and place.block == 0:
                blocks[0][part, part] = lam if lam.size == 1 else triangular(self.eq.term_basis(t) @ lam)
            else:
                blocks[place.block][part, part] = root.U * root.s
        lam1 = blocks[0] if lay.has_lead else np.zeros((1, 1))
        lam2 = blocks[1:] if lay.has_lead else blocks
        self._theta = None  # until it is set in full
        self.system.set_theta(lam1, lam2)
        self._theta = theta.copy()
        return lams, roots, lam2

    def _solve_state(self, theta: np.ndarray, tol: float, probes: bool = True) -> SolvedState:
        self.n_evaluations += 1
        eq, sy = self.eq, self.system
        lams, roots, lam2 = self._set_theta(theta)
        WA = sy.weigh(sy.W, eq.A1x.copy())
        K2x = sy.minus_rest(WA, eq.A2x.copy())
        HA = flat(sy.weigh(sy.half, eq.A1x.copy()))
        Kxx = eq.Axx - HA.T @ HA
        U = sy.scale(K2x, True)
        z = self.probes if probes else self.probes[:, :0]
        Y, R, report, solved = self._all_solves(U, z, lam2, tol)
        self._previous = (lam2, Y)
        self.cg_iterations += report.iterations
        # exact but for R'S^-1R
        cross = R.T @ Y
        C = Kxx - (U.T @ Y + cross.T)
        C = 0.5 * (C + C.T)
        border = solve_border(C)
        check_residual(border.r2, self.yy)
        return SolvedState(
            theta.copy(), lams, roots, lam2, U, Y, border.Ri, border.b, border.r2, border.r2 / self.nu,
            border.logdet, solved, report,
        )  # fmt: skip

    def _all_solves(
        self, U: np.ndarray, z: np.ndarray, lam2: list[np.ndarray], tol: float
    ) -> tuple[np.ndarray, np.ndarray, SolveReport, ProbeSolves]:
        """Solve for [U, Q, probes], a batch at a time: solution and residual for U, report."""
        sy, m, c = self.system, U.shape[1], self.system.n_components
        Q = sy.Q if z.shape[1] else sy.Q[:, :0]
        loose = min(0.01, tol)
        # an error of the response's solution counts in a sum of q squares, whose own spread is sqrt(2q)
        most = max((b.q * b.k for b in self.eq.layout.blocks), default=1)
        tight = max(tol / np.sqrt(2.0 * most), min(tol, _TIGHTEST))
        report = SolveReport()
        lead, rest = [], []
        Y: np.ndarray | None = None
        R: np.ndarray | None = None
        known: Deflation | None = None
        known_lead: Deflation | None = None
        for i, stop in batches(z.shape[1], max(1, c), m + Q.shape[1], self.eq.layout.q2):
            head = U if i == 0 else U[:, :0]
            const = Q if i == 0 else Q[:, :0]
            e = const.shape[1]
            tail = np.hstack([const, sy.expand(z[:, i:stop])])
            jacobi = sy.precondition(tail)
            start = jacobi - sy.precondition(sy.product(jacobi, loose)[0] - tail)
            # relative to what the trace is about, (I - S^-1)z to first order
            reference = np.r_[
                np.sqrt(np.sum(head * sy.precondition(head), axis=0)),
                np.sqrt(np.sum((tail - jacobi) ** 2, axis=0)),
            ]
            tols = np.full(head.shape[1] + tail.shape[1], tol)
            tols[: head.shape[1]] = tight
            tols[head.shape[1] + e :] = loose
            sol = sy.solve(
                np.hstack([head, tail]),
                tols,
                X0=np.hstack([self._warm(head, lam2), start]),
                reference=reference,
                max_iterations=self.max_iterations,
            )
            report.add(sol, at_once=True)
            X = sol.X[:, head.shape[1] :]
            if i == 0:
                Y, R = np.ascontiguousarray(sol.X[:, :m]), np.ascontiguousarray(sol.R[:, :m])
                known = Deflation.of(const, X[:, :e] - start[:, :e])
                known_lead = Deflation.of(const, X[:, :e] - jacobi[:, :e])
            assert known is not None and known_lead is not None
            own, X = tail[:, e:], X[:, e:]
            lead.append(self._lead_products(own, X - jacobi[:, e:] - known_lead.times(own), tol))
            lost = start[:, e:] - X + known.times(own)
            # x'r makes the quadratic forms z'x exact but for the square of the residual r
            correction = np.sum(X * sol.R[:, head.shape[1] + e :], axis=0)
            rest.append([self._rest_products(t, z[:, i:stop], lost, correction) for t in self._in_rest])
        merged = iter(np.concatenate(parts) for parts in zip(*rest, strict=True))
        by_term = [next(merged) if t in self._in_rest else None for t in range(len(self.eq.layout.places))]
        assert Y is not None and R is not None and known is not None and known_lead is not None
        return Y, R, report, ProbeSolves(np.concatenate(lead), by_term, known, known_lead)

    @property
    def _in_rest(self) -> list[int]:
        """Terms that are not in the leading block."""
        lay = self.eq.layout
        return [t for t, place in enumerate(lay.places) if not (lay.has_lead and place.block == 0)]

    def _lead_products(self, own: np.ndarray, gain: np.ndarray, tol: float) -> np.ndarray:
        """See `ProbeSolves.lead`; probes in `own` effect by effect."""
        sy = self.system
        k1, c = self.eq.layout.k1, sy.n_components
        out = np.zeros((own.shape[1] // max(1, c), k1, k1))
        if not out.size or not sy.q1:
            return out
        left = sy.weighted_lead(sy.F, np.ascontiguousarray(gain), tol)
        right = sy.weighted_lead(sy.F, np.ascontiguousarray(own), tol)
        for j in range(out.shape[0]):
            mine = slice(j * c, (j + 1) * c)
            M = np.einsum("lac,lbc->ab", left[:, :, mine], right[:, :, mine])
            out[j] = 0.5 * (M + M.T)
        return out

    def _rest_products(self, t: int, z: np.ndarray, lost: np.ndarray, correction: np.ndarray) -> np.ndarray:
        """See `ProbeSolves.rest`."""
        block, k, effects = self._effects(t)
        n, c = z.shape[1], self.system.n_components
        cube = self._cube(t, lost).reshape(block.q, k, n, c)[:, :, :, effects]
        M = np.einsum("laib,lbi->iab", cube, self._cube(t, z).astype(np.float64))
        diagonal = np.arange(k)
        M[:, diagonal, diagonal] -= correction.reshape(n, c)[:, effects]
        return M

    def _effects(self, t: int) -> tuple[Block, int, slice]:
        """Block of a term of the rest, its number of effects, and these among all components of the rest."""
        lay, place = self.eq.layout, self.eq.layout.places[t]
        r = place.block - int(lay.has_lead)
        start = int(sum(b.k for b in lay.rest[:r])) + place.first
        return lay.rest[r], place.k, slice(start, start + place.k)

    def _cube(self, t: int, M: np.ndarray) -> np.ndarray:
        """The rows of a term of the rest: (q2, m) -> (q_t, k_t, m)."""
        lay, place = self.eq.layout, self.eq.layout.places[t]
        r = place.block - int(lay.has_lead)
        block = lay.rest[r]
        rows = slice(int(lay.offsets[r]), int(lay.offsets[r + 1]))
        return M[rows].reshape(block.q, block.k, -1)[:, self.eq.layout.places[t].columns]

    def _warm(self, U: np.ndarray, lam2: list[np.ndarray]) -> np.ndarray:
        """Start of the solves for [X y]: the last solution, moved to the new factors."""
        if U.shape[1] == 0 or self._previous is None or self._previous[1].shape != U.shape:
            return np.zeros_like(U)
        old, Y = self._previous
        out = np.empty_like(Y)
        lay = self.eq.layout
        for r, block in enumerate(lay.rest):
            part = slice(int(lay.offsets[r]), int(lay.offsets[r + 1]))
            move = np.linalg.solve(lam2[r], old[r])
            cube = Y[part].reshape(block.q, block.k, Y.shape[1])
            out[part] = np.matmul(move, cube).reshape(Y[part].shape)
        return out

    # -- gradient -----------------------------------------------------------------------------------------

    def _residual_products(self, st: SolvedState) -> list[np.ndarray]:
        """Z'We = Z'Py per block, shape (q, k) each."""
        eq, lay, sy = self.eq, self.eq.layout, self.system
        p, b = eq.p, st.b
        v = (st.Y[:, p] - st.Y[:, :p] @ b)[:, None]
        out = []
        if lay.has_lead:
            raw = (eq.response.Z1y - eq.Z1Q @ b)[:, :, None]
            raw = raw - sy.lead(sy.scale(np.ascontiguousarray(v), False))
            out.append(sy.weigh(sy.F, np.ascontiguousarray(raw))[:, :, 0])
        for r, block in enumerate(lay.rest):
            part = v[int(lay.offsets[r]) : int(lay.offsets[r + 1]), 0].reshape(block.q, block.k)
            # lam2'Z'e is the solution itself
            out.append(part @ np.linalg.inv(st.lam2[r]))
        return out

    def _derivatives(self, st: SolvedState, Ze: list[np.ndarray]) -> list[np.ndarray]:
        """Samples of N of every term in the equations' basis, shapes (n_probes, k, k)."""
        lay = self.eq.layout
        p = self.eq.p
        half = st.Y[:, :p] @ st.Ri.T if self.reml and p else None
        lead = self._lead_samples(st, half) if lay.has_lead else None
        out = []
        for t, place in enumerate(lay.places):
            part = self.eq.layout.places[t].columns
            ze = Ze[place.block][:, part]
            if lay.has_lead and place.block == 0:
                assert lead is not None
                mine = lead[:, part, part]
            else:
                mine = self._rest_samples(st, t, half)
            out.append(mine - ze.T @ ze / st.sigma2)
        return out

    def _lead_samples(self, st: SolvedState, half: np.ndarray | None) -> np.ndarray:
        """sum_l F_l A_l less the share of the rest, by probe: shape (n_probes, k1, k1)."""
        eq, lay, sy = self.eq, self.eq.layout, self.system
        k1 = lay.k1
        E = np.einsum("lab,lbc->ac", sy.F, eq.A1) if k1 > 1 else np.sum(sy.F * eq.A1, axis=0)
        N = 0.5 * (E + E.T)
        if half is not None:
            G = flat(eq.Z1Q) @ st.Ri.T
            G = G.reshape(lay.q1, k1, eq.p) - sy.lead(sy.scale(np.ascontiguousarray(half), False))
            FG = sy.weigh(sy.F, np.ascontiguousarray(G)).transpose(1, 0, 2).reshape(k1, -1)
            N = N - FG @ FG.T
        if lay.q2 == 0:
            return np.broadcast_to(N, (max(1, self.n_probes), k1, k1)).copy()
        K = st.probes.known_lead
        both = sy.weighted_lead(sy.F, np.hstack([K.Q, K.A]))
        half = both.shape[2] // 2
        share = np.einsum("lac,lbc->ab", both[:, :, :half], both[:, :, half:])
        return N - sy.block_trace() - share - share.T - st.probes.lead

    def _rest_samples(self, st: SolvedState, t: int, half: np.ndarray | None) -> np.ndarray:
        """lam2^-T (I - S^-1 - half half') lam2^-1 summed over the term's levels, by probe."""
        lay, sy, root = self.eq.layout, self.system, st.roots[t]
        block, k, _ = self._effects(t)
        inside = self.eq.layout.places[t].columns
        first = int(sum(b.q for b in lay.rest[: lay.places[t].block - int(lay.has_lead)]))
        known = block.q * np.eye(k) - sy.Pi[first : first + block.q, inside, inside].sum(axis=0)
        if half is not None:
            flat = self._cube(t, half).transpose(1, 0, 2).reshape(k, -1)
            known = known - flat @ flat.T
        K = np.einsum("laj,lbj->ab", self._cube(t, st.probes.known.Q), self._cube(t, st.probes.known.A))
        samples = st.probes.rest[t]
        assert samples is not None
        M = samples + (known - K - K.T)
        if k > 1:
            # each pair by the row of the direction with the smaller s
            low = root.s[:, None] <= root.s[None, :]
            M = np.where(low, M, M.transpose(0, 2, 1))
            M = np.where(low == low.T, 0.5 * (M + M.transpose(0, 2, 1)), M)
        M = M / np.outer(root.s, root.s)
        return root.U @ M @ root.U.T
