"""Fits of many responses on one design: by patterns of missing values, in kernels, the rest one by one.

`Many.fit` takes a block of responses.  Those that have values in the same rows share everything that is the
design's; where its Schur complement is small all of them are fitted by compiled searches
(`mme.engine.direct.batch`), and what these leave, or a larger design, by `mme.fit.refit.Refits`.  Every
response is fitted for itself: neither the block nor the number of threads changes a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ..engine.direct.batch import Batch, BatchFit, Further, is_batchable
from ..engine.equations.design import Design, RandomTerm
from ..engine.equations.equations import Equations
from ..engine.equations.moments import Moments, check_identified
from ..engine.equations.respond import Responder
from ..engine.equations.response import Responses
from ..engine.runtime.parallel import single_threaded_blas
from ..engine.search.coordinates import Coordinates
from ..exceptions import ConvergenceError, MemoryEstimateError, MMEError, PerfectFitError
from .costs import cell_pairs
from .fit import equations_of, planned
from .modes import has_few_levels, is_cheap, table_ratios
from .options import route_of
from .perfect import has_few_rows
from .refit import Refit, Refits

__all__ = ["CONSTANT", "EXACT", "FITTED", "Many", "ManyFit", "design_of_rows"]

# what became of a response
FITTED = "fitted"
NOT_CONVERGED = "not converged"
MISSING = "no values"
INFINITE = "infinite values"
EXTREME = "values too large or too small"
CONSTANT = "constant"
EXPLAINED = "explained by the fixed effects"
EXACT = "explained exactly"

_LARGEST, _SMALLEST = 1e35, 1e-150  # of a response, as in `mme.engine.equations.design`
_EXPLAINED = 1e-24  # its own share that fixed effects leave, as in `mme.engine.equations.border`
_MOST_PATTERNS = 64  # whose designs are kept
_NUMBERS = 8_000_000  # of a block's arrays, that are in memory at a time
_MOST = 4_096  # responses of a block

Degrees = Callable[[Refits, Refit], np.ndarray]


@dataclass(frozen=True, eq=False)
class ManyFit:
    """Estimates of N responses; NaN where a response could not be fitted.

    Attributes
    ----------
    beta, se : ndarrays, shape (N, p)
        Fixed effects and their standard errors given the variances; NaN where a dependent column was dropped.
    df : ndarray, shape (N, p), or None
        Satterthwaite's degrees of freedom, if they were asked for.
    D : list of ndarray, shapes (N, k_t, k_t)
        Relative covariances of every term of the design.
    sigma2, loglik : ndarrays, shape (N,)
    n, rank : ndarrays of int, shape (N,)
        Rows with a value, and rank of X there.
    converged, singular : ndarrays of bool, shape (N,)
    status : ndarray of str, shape (N,)
        ``"fitted"``, or why not.
    compiled : ndarray of bool, shape (N,)
        Whether the compiled search fitted it.
    """

    beta: np.ndarray
    se: np.ndarray
    df: np.ndarray | None
    D: list[np.ndarray]
    sigma2: np.ndarray
    loglik: np.ndarray
    n: np.ndarray
    rank: np.ndarray
    converged: np.ndarray
    singular: np.ndarray
    status: np.ndarray
    compiled: np.ndarray

    @classmethod
    def empty(cls, count: int, design: Design, degrees: bool) -> ManyFit:
        """Of responses that have not been fitted."""
        nan = np.full
        return cls(
            nan((count, design.p), np.nan),
            nan((count, design.p), np.nan),
            nan((count, design.p), np.nan) if degrees else None,
            [nan((count, term.k, term.k), np.nan) for term in design.terms],
            nan(count, np.nan),
            nan(count, np.nan),
            np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=np.int64),
            np.zeros(count, dtype=bool),
            np.zeros(count, dtype=bool),
            np.full(count, MISSING, dtype=object),
            np.zeros(count, dtype=bool),
        )

    @classmethod
    def joined(cls, parts: list[ManyFit]) -> ManyFit:
        """One after the other."""
        df = [p.df for p in parts if p.df is not None]
        D = [np.concatenate(own) for own in zip(*(p.D for p in parts), strict=True)]
        rest = {
            name: np.concatenate([getattr(p, name) for p in parts])
            for name in cls.__dataclass_fields__
            if name not in ("df", "D")
        }
        return cls(df=np.concatenate(df) if df else None, D=D, **rest)


def design_of_rows(design: Design, used: np.ndarray) -> Design:
    """The design of some of its rows, with the levels that occur there.

    Parameters
    ----------
    design : Design
    used : ndarray of bool, shape (n,)

    Raises
    ------
    DesignError, DataError
        As `Design`.
    """
    terms: list[RandomTerm] = []
    made: dict[int, tuple[np.ndarray, int]] = {}
    for term in design.terms:
        if term.Z is not None:
            terms.append(replace(term, Z=term.Z.tocsr()[used]))
            continue
        assert term.codes is not None
        if id(term.codes) not in made:
            levels, codes = np.unique(term.codes[used], return_inverse=True)
            made[id(term.codes)] = codes.astype(term.codes.dtype), levels.size
        codes, count = made[id(term.codes)]
        columns = None if term.columns is None else np.ascontiguousarray(term.columns[used])
        terms.append(replace(term, codes=codes, n_levels=count, columns=columns))
    return Design(
        np.arange(int(used.sum()), dtype=np.float64),
        np.ascontiguousarray(design.X[used]),
        tuple(terms),
        None if design.weights is None else design.weights[used],
        None if design.offset is None else design.offset[used],
        design.x_names,
        design.more_effects_than_rows,
    )


@dataclass(eq=False)
class _Shared:
    """What responses with values in the same rows share."""

    design: Design
    equations: Equations
    reml: bool
    tol: float
    batch: Batch | None = field(init=False)

    def __post_init__(self) -> None:
        eq = self.equations
        check_identified(self.design, eq)
        planned(self.design, eq, route_of("direct"))
        self.responder = Responder(self.design, eq)
        self.batch = None
        if is_batchable(eq):
            self.batch = Batch(eq, self.reml, self._further, self.tol)
            self.moments = Moments(eq)
        self._refits: Refits | None = None

    @property
    def refits(self) -> Refits:
        """Fits of one response after the other."""
        if self._refits is None:
            self._refits = Refits(self.design, self.equations, self.reml, tol=self.tol)
        return self._refits

    def _further(self, space: Coordinates) -> Further:
        eq = self.equations
        none = np.zeros(0)
        if eq.layout.q2 == 0 and eq.layout.n_theta == 1:
            ratios = table_ratios(eq, space)
            return Further(ratios.size > 0, ratios, False, has_few_rows(eq))
        cheap = is_cheap(eq, cell_pairs(eq) * eq.layout.k1)
        return Further(cheap, none, has_few_levels(eq), has_few_rows(eq))


class Many:
    """Fits of responses on one design.

    Parameters
    ----------
    design : Design
        Its own response is not used.
    reml : bool
    degrees : bool
        Whether Satterthwaite's degrees of freedom are wanted.
    one_by_one : callable (Refits, Refit) -> ndarray, shape (p,), optional
        These of a fit that the compiled search left.
    tol : float
        As in `mme.fit.fit_design`.
    equations : Equations, optional
        Built before for the same design.

    Notes
    -----
    What differs from response to response is the border alone: `Responder.responses` gives [Z X]'W Y and
    `Batch.fit` takes it.  A covariate of its own for every response (a genotype, say) is one more column of
    that border, [Z X y]'W x_i, and would come in the same two places.
    """

    def __init__(
        self,
        design: Design,
        reml: bool = True,
        degrees: bool = False,
        one_by_one: Degrees | None = None,
        tol: float = 1e-8,
        equations: Equations | None = None,
    ) -> None:
        self.design, self.reml, self.degrees = design, bool(reml), degrees
        self._one_by_one, self._tol = one_by_one, tol
        with single_threaded_blas():
            self._all = _Shared(
                design, equations_of(design) if equations is None else equations, self.reml, tol
            )
        self._patterns: dict[bytes, _Shared | str] = {}

    @property
    def dropped(self) -> list[str]:
        """Columns of X that depend on earlier ones, all rows given."""
        kept = self._all.equations.fixed.kept
        return [name for name, used in zip(self.design.x_names, kept, strict=True) if not used]

    @property
    def block_size(self) -> int:
        """How many responses are fitted at a time."""
        eq = self._all.equations
        each = 4 * self.design.n + 2 * eq.layout.q1 * eq.layout.k1 + 2 * eq.layout.q2
        return int(min(_MOST, max(1, _NUMBERS // max(1, each))))

    def fit(self, Y: np.ndarray) -> ManyFit:
        """Fit responses.

        Parameters
        ----------
        Y : ndarray, shape (n, N)
            NaN where a value is missing.
        """
        Y = np.asarray(Y, dtype=np.float64)
        out = ManyFit.empty(Y.shape[1], self.design, self.degrees)
        missing = np.isnan(Y)
        out.n[:] = self.design.n - missing.sum(axis=0)
        infinite = np.isinf(Y).any(axis=0)
        out.status[infinite] = INFINITE
        usable = ~infinite & (out.n > 0)
        whole = usable & (out.n == self.design.n)
        with single_threaded_blas():
            if whole.any():
                self._fit_shared(self._all, Y, np.flatnonzero(whole), None, out)
            groups: dict[bytes, list[int]] = {}
            packed = np.packbits(missing, axis=0)
            for i in np.flatnonzero(usable & ~whole):
                groups.setdefault(packed[:, i].tobytes(), []).append(int(i))
            for key, members in groups.items():
                used = ~missing[:, members[0]]
                shared = self._shared_of(key, used)
                if isinstance(shared, str):
                    out.status[members] = shared
                else:
                    self._fit_shared(shared, Y, np.array(members), used, out)
        return out

    def _shared_of(self, key: bytes, used: np.ndarray) -> _Shared | str:
        """The design of a pattern, or why there is none."""
        found = self._patterns.pop(key, None)
        if found is None:
            try:
                design = design_of_rows(self.design, used)
                found = _Shared(design, equations_of(design), self.reml, self._tol)
            except MemoryEstimateError:
                raise
            except MMEError as error:
                found = f"its rows cannot be fitted: {error}"
        self._patterns[key] = found  # the last used is the last to go
        if len(self._patterns) > _MOST_PATTERNS:
            del self._patterns[next(iter(self._patterns))]
        return found

    def _fit_shared(
        self, shared: _Shared, Y: np.ndarray, members: np.ndarray, used: np.ndarray | None, out: ManyFit
    ) -> None:
        Y = Y[:, members] if used is None else Y[np.ix_(used, members)]
        out.rank[members] = shared.equations.p
        size = np.abs(Y).max(axis=0)
        extreme = (size > _LARGEST) | ((size > 0.0) & (size < _SMALLEST))
        out.status[members[extreme]] = EXTREME
        usable = ~extreme
        if shared.design.offset is None:
            constant = np.ptp(Y, axis=0) == 0.0
            out.status[members[constant]] = CONSTANT
            usable &= ~constant
        Y, members = np.ascontiguousarray(Y[:, usable]), members[usable]
        if not members.size:
            return
        responses = shared.responder.responses(Y)
        explained = ~(responses.yy > _EXPLAINED * responses.total) | (responses.yy == 0.0)
        out.status[members[explained]] = EXPLAINED
        left = ~explained
        if shared.batch is not None and left.any():
            own = responses[left]
            fit = shared.batch.fit(own, shared.moments.starts(own), self.degrees)
            _label(shared, own, fit, members[left], out)
            left[left] = ~fit.fitted
        for i in np.flatnonzero(left):
            self._fit_one(shared, Y[:, i], members[i], out)

    def _fit_one(self, shared: _Shared, y: np.ndarray, at: np.intp, out: ManyFit) -> None:
        """By the ordinary path."""
        refits = shared.refits
        try:
            fit = refits.fit(y)
        except PerfectFitError:
            out.status[at] = EXACT
            return
        except (ConvergenceError, np.linalg.LinAlgError) as error:
            out.status[at] = f"{NOT_CONVERGED}: {error}"
            return
        out.status[at] = FITTED if fit.converged else NOT_CONVERGED
        out.beta[at], out.se[at] = fit.beta, np.sqrt(np.diag(fit.vcov))
        out.sigma2[at], out.loglik[at] = fit.sigma2, fit.loglik
        out.converged[at], out.singular[at] = fit.converged, fit.singular
        for D, lam in zip(out.D, fit.lam, strict=True):
            D[at] = lam @ lam.T
        if out.df is not None and self._one_by_one is not None:
            out.df[at] = self._one_by_one(refits, fit)


def _label(shared: _Shared, responses: Responses, fit: BatchFit, at: np.ndarray, out: ManyFit) -> None:
    """What the kernels found, in the design's columns."""
    ok = fit.fitted
    at, eq = at[ok], shared.equations
    T, kept = eq.fixed.T, np.flatnonzero(eq.fixed.kept)
    sigma2 = fit.sigma2[ok]
    out.status[at], out.converged[at], out.compiled[at] = FITTED, True, True
    out.singular[at] = fit.singular[ok].any(axis=1)
    out.sigma2[at], out.loglik[at] = sigma2, -0.5 * fit.deviance[ok]
    out.beta[np.ix_(at, kept)] = (fit.b[ok] + responses.b0[ok]) @ T.T
    root = np.matmul(T, fit.Ri[ok].transpose(0, 2, 1))
    out.se[np.ix_(at, kept)] = np.sqrt(sigma2[:, None] * np.sum(root * root, axis=2))
    if out.df is not None and fit.df is not None:
        out.df[np.ix_(at, kept)] = fit.df[ok]
    for t, place in enumerate(eq.layout.places):
        lam = np.zeros((at.size, place.k, place.k))
        for i, (a, b) in enumerate(place.entries, start=place.theta.start):
            lam[:, a, b] = fit.theta[ok, i]
        lam = np.linalg.solve(eq.term_basis(t), lam)
        out.D[t][at] = np.matmul(lam, lam.transpose(0, 2, 1))
