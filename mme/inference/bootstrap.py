"""Bootstrap: responses drawn from a fit, each fitted again on the same design, or clusters on their own.

Refits share what is the design's (`mme.fit.refit`).  Draw i of a seed depends on the two alone, whoever makes
it.  Variances that end at zero, and covariances that end singular, are part of the answer and are counted.
"""

from __future__ import annotations

import os
import queue
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..engine.equations.design import Design
from ..engine.equations.equations import Equations
from ..engine.equations.respond import Responder
from ..engine.runtime.notices import Progress
from ..engine.runtime.parallel import n_threads, single_threaded_blas
from ..exceptions import ConvergenceError, DesignError, InferenceError, OptionError
from ..fit.fit import fit_design
from ..fit.fitted import Fitted, Labels
from ..fit.refit import Refit, Refits
from ..fit.residual import ResidualFit, refuse_structure
from ..fit.structured import fit_structured
from .parameters import Values, check_maximum, check_option
from .simulation import Clusters, ParametricDraws, ResidualDraws, rows_of_fit, simulate

__all__ = [
    "BACKENDS",
    "FEW",
    "KINDS",
    "NO_FIT",
    "Draws",
    "Job",
    "Workers",
    "check_count",
    "check_draws",
    "check_workers",
    "draw",
    "independent_clusters",
    "job_of",
    "percentiles",
    "run_jobs",
    "simulate",
    "values_of",
]

KINDS = ("parametric", "residual", "cluster")
BACKENDS = ("threads", "processes")
FEW = 10  # draws from which percentiles are taken
_PIECES = 8  # of every worker's share: the bar moves, and no worker waits long for another
Workers: TypeAlias = Any  # an int, or a distributed.Client
NO_FIT = (ConvergenceError, DesignError, np.linalg.LinAlgError)


class Source(Protocol):
    """Where responses come from."""

    def response(self, seed: int, i: int) -> np.ndarray:
        """Draw i, shape (n,)."""


@dataclass(frozen=True, eq=False)
class Job:
    """All that a worker needs; plain arrays, so that it can be sent to another process.

    Attributes
    ----------
    design : Design
    equations : Equations
    reml : bool
    source : Source or Clusters
    seed : int
    iterative : dict or None
        Options of iterative fits; None: fits by factorizations.
    after : callable, optional
        A number that is made of every fit by factorizations on the design.
    residual : ResidualFit, optional
        Structure of the residuals; refits begin at its parameters.
    """

    design: Design
    equations: Equations
    reml: bool
    source: Source | Clusters
    seed: int
    iterative: dict[str, Any] | None = None
    after: Callable[[Refits, Refit], float] | None = None
    residual: ResidualFit | None = None


@dataclass(frozen=True, eq=False)
class Made:
    """Draw i, its fit, or why there is none, and what the job makes of it."""

    i: int
    fit: Refit | None
    failure: str = ""
    value: float = np.nan


class Worker:
    """Fits draws of a job, one at a time."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, i: int) -> Made:
        """Draw and fit."""
        job = self.job
        try:
            if isinstance(job.source, Clusters):
                fit = self._clusters(job.source.resample(job.seed, i))
            elif job.residual is not None:
                fit = self._structured(job.source.response(job.seed, i), job.residual)
            elif job.iterative is None:
                fit = self._refits.fit(job.source.response(job.seed, i))
            else:
                fit = self._iterative(job.source.response(job.seed, i))
        except NO_FIT as error:
            return Made(i, None, type(error).__name__)
        if not fit.converged:
            return Made(i, None, "did not converge")
        if job.after is None:
            return Made(i, fit)
        return Made(i, fit, value=job.after(self._refits, fit))

    @cached_property
    def _refits(self) -> Refits:
        return Refits(self.job.design, self.job.equations, self.job.reml)

    @cached_property
    def _responder(self) -> Responder:
        return Responder(self.job.design, self.job.equations)

    def _iterative(self, y: np.ndarray) -> Refit:
        job = self.job
        with single_threaded_blas():
            equations = self._responder.respond(y)
        assert job.iterative is not None
        fit = fit_design(
            job.design.with_response(y),
            reml=job.reml,
            solver="iterative",
            equations=equations,
            **job.iterative,
        )
        return _plain(fit)

    def _structured(self, y: np.ndarray, residual: ResidualFit) -> Refit:
        design = self.job.design.with_response(y)
        return _plain(fit_structured(design, residual.structure, reml=self.job.reml, xi=residual.xi))

    def _clusters(self, design: Design) -> Refit:
        fit = fit_design(design, reml=self.job.reml, solver="direct")
        if not np.array_equal(fit.kept, self.job.equations.fixed.kept):
            raise DesignError("the clusters drawn do not tell all fixed effects.")
        return _plain(fit)


def _plain(fit: Any) -> Refit:
    return Refit(
        fit.beta,
        fit.lam,
        fit.sigma2,
        fit.loglik,
        fit.record.converged,
        bool(fit.record.singular),
        fit.vcov_beta,
    )


@dataclass(frozen=True, eq=False)
class Draws:
    """Estimates from simulated responses.

    Attributes
    ----------
    labels : Labels
    values : tuple of Values
        One per response that was fitted.
    failures : int
        Responses that could not be fitted, or whose fit did not converge: left out.
    singular : int
        Fits with a singular covariance.
    seed : int
    kind : {"parametric", "residual", "cluster"}
    numbers : tuple of int
        Which draws of the seed `values` are.
    reasons : dict of str to int
        Failures by what happened.
    first, n : int
        Draws ``first`` to ``first + n - 1`` of the seed were asked for.
    """

    labels: Labels
    values: tuple[Values, ...]
    failures: int
    singular: int
    seed: int
    kind: str = "parametric"
    numbers: tuple[int, ...] = ()
    reasons: dict[str, int] | None = None
    first: int = 0
    n: int = 0

    def of(self, function: Callable[[Values], np.ndarray]) -> np.ndarray:
        """A function of the parameters at every draw, shape (draws, q)."""
        return np.array([np.atleast_1d(function(values)) for values in self.values])

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of percentiles should know."""
        total = len(self.values) + self.failures
        notes = [f"{self.kind.capitalize()} bootstrap, {len(self.values)} fits, seed {self.seed}."]
        if self.singular:
            notes.append(f"{self.singular} of them have a singular covariance.")
        if self.failures:
            why = ", ".join(f"{name}: {count}" for name, count in (self.reasons or {}).items())
            notes.append(
                f"{self.failures} of {total} responses could not be fitted and are left out"
                f"{why and f' ({why})'}."
            )
        return tuple(notes)

    def joined(self, more: Draws) -> Draws:
        """With the draws of the same seed that come next."""
        reasons = Counter(self.reasons or {}) + Counter(more.reasons or {})
        return replace(
            self,
            values=self.values + more.values,
            failures=self.failures + more.failures,
            singular=self.singular + more.singular,
            numbers=self.numbers + more.numbers,
            reasons=dict(reasons),
            n=self.n + more.n,
        )


def job_of(fitted: Fitted, kind: str, seed: int, what: str = "A bootstrap") -> Job:
    """What a bootstrap of an estimate has to do.

    Raises
    ------
    InferenceError
        The data were removed; the estimate is no maximum of the likelihood; no clusters are independent.
    OptionError
        An unknown `kind`.
    """
    kind = check_option("kind", kind, KINDS)
    source: Source | Clusters
    check_maximum(fitted, what, structured=True)
    design = rows_of_fit(fitted, what)
    iterative = None
    if fitted.residual is not None:
        if kind != "parametric":
            refuse_structure(fitted.residual, f"{what} with kind={kind!r}")
        assert fitted.white is not None
        source = ParametricDraws.of(design, fitted)
        return Job(design, fitted.white.objective.eq, fitted.reml, source, seed, residual=fitted.residual)
    if fitted.monte_carlo is not None:
        iterative = {"seed": fitted.monte_carlo.seed, "loglik_probes": 0}
    if kind == "cluster":
        if iterative is not None:
            raise InferenceError(f"{what} of clusters fits directly, and this fit was iterative.")
        source = independent_clusters(design, f"{what} with kind='cluster'")
    else:
        source = (ParametricDraws if kind == "parametric" else ResidualDraws).of(design, fitted)
    return Job(design, fitted.objective().eq, fitted.reml, source, seed, iterative)


def independent_clusters(design: Design, what: str) -> Clusters:
    """Clusters that share no random effect.

    Raises
    ------
    InferenceError
        There is one alone.
    """
    clusters = Clusters(design)
    if clusters.n < 2:
        names = ", ".join(dict.fromkeys(term.name for term in design.terms))
        raise InferenceError(
            f"{what} needs clusters of rows that share no random effect, and the crossed factors ({names}) "
            "connect all rows. kind='parametric' and kind='residual', with percentile or basic intervals, "
            "need none."
        )
    return clusters


def run_jobs(
    jobs: Sequence[Job],
    numbers: Sequence[int],
    workers: Workers = 1,
    backend: str = "threads",
    progress: bool | None = None,
) -> Iterator[tuple[Made, ...]]:
    """Each draw fitted by every job, in the order of the numbers, whatever the number of workers.

    Parameters
    ----------
    jobs : sequence of Job
    numbers : sequence of int
    workers : int or distributed.Client
        A client's cluster does the draws.
    backend : {"threads", "processes"}
    progress : bool, optional
        A bar; None: on a terminal, once it has taken a while.
    """
    with closing(Progress(progress, "bootstrap", total=len(numbers), unit=" draw")) as bar:
        for done, made in enumerate(_made(jobs, numbers, workers, backend), 1):
            yield made
            bar.report(done)


def _made(
    jobs: Sequence[Job], numbers: Sequence[int], workers: Workers, backend: str
) -> Iterator[tuple[Made, ...]]:
    if not isinstance(workers, int):
        yield from _on_cluster(jobs, numbers, workers)
        return
    if workers == 1 or len(numbers) == 1:
        own = [Worker(job) for job in jobs]
        with single_threaded_blas():  # entered once, and not by every fit
            for i in numbers:
                yield tuple(worker(i) for worker in own)
        return
    pieces = _pieces(numbers, workers)
    with _pool(jobs, workers, backend) as (pool, call):
        results = pool.map(call, pieces)
        for piece in results:
            yield from piece


@contextmanager
def _pool(
    jobs: Sequence[Job], workers: int, backend: str
) -> Iterator[tuple[Executor, Callable[[list[int]], list[tuple[Made, ...]]]]]:
    pool: Executor
    if backend == "processes":
        threads = max(1, n_threads() // workers)
        # not loaded where nobody asks for processes
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        pool = ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_begin, initargs=(list(jobs), threads)
        )
        call = _in_process
    else:
        idle: queue.SimpleQueue[list[Worker]] = queue.SimpleQueue()
        for _ in range(workers):
            idle.put([Worker(job) for job in jobs])

        def call(piece: list[int]) -> list[tuple[Made, ...]]:
            own = idle.get()
            try:
                return _together(own, piece)
            finally:
                idle.put(own)

        pool = ThreadPoolExecutor(workers, thread_name_prefix="mme-bootstrap")
    try:
        yield pool, call
    finally:
        pool.shutdown(cancel_futures=True)


def _pieces(numbers: Sequence[int], workers: int) -> list[list[int]]:
    size = max(1, -(-len(numbers) // (workers * _PIECES)))
    return [list(numbers[a : a + size]) for a in range(0, len(numbers), size)]


def _on_cluster(jobs: Sequence[Job], numbers: Sequence[int], client: Any) -> Iterator[tuple[Made, ...]]:
    """Pieces as tasks of a cluster; one that is lost with its worker is done again, with the same draws."""
    threads = sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    token = uuid.uuid4().hex
    # what is scattered is taken item by item
    (held,) = client.scatter([list(jobs)], broadcast=True, hash=False)
    tasks = [
        client.submit(_as_task, token, held, piece, pure=False) for piece in _pieces(numbers, max(1, threads))
    ]
    try:
        for task in tasks:
            yield from task.result()
    finally:
        client.cancel(tasks)


_of_thread = threading.local()


def _as_task(token: str, held: list[Job], piece: list[int]) -> list[tuple[Made, ...]]:
    if getattr(_of_thread, "token", None) != token:
        _of_thread.workers = [Worker(job) for job in held]
        _of_thread.token = token
    return _together(_of_thread.workers, piece)


_of_process: list[Worker] = []


def _begin(jobs: list[Job], threads: int) -> None:
    os.environ["NUMBA_NUM_THREADS"] = str(threads)
    _of_process[:] = [Worker(job) for job in jobs]


def _in_process(piece: list[int]) -> list[tuple[Made, ...]]:
    return _together(_of_process, piece)


def _together(workers: Iterable[Worker], piece: list[int]) -> list[tuple[Made, ...]]:
    with single_threaded_blas():
        return [tuple(worker(i) for worker in workers) for i in piece]


def draw(
    fitted: Fitted,
    n_boot: int,
    seed: int,
    *,
    kind: str = "parametric",
    workers: Workers = 1,
    backend: str = "threads",
    first: int = 0,
    progress: bool | None = None,
    least: int = FEW,
) -> Draws:
    """Draw and fit.

    Parameters
    ----------
    fitted : Fitted
    n_boot, seed : int
    kind : {"parametric", "residual", "cluster"}
    workers : int or distributed.Client
    backend : {"threads", "processes"}
    first : int
        Number of the first draw.
    progress : bool, optional
    least : int
        Fits without which there is nothing to say.

    Raises
    ------
    InferenceError
        The data were removed; the estimate is no maximum of the likelihood; hardly any fit succeeds.
    """
    job = job_of(fitted, kind, seed)
    values, numbers, singular = [], [], 0
    reasons: Counter[str] = Counter()
    for (made,) in run_jobs([job], range(first, first + n_boot), workers, backend, progress):
        if made.fit is None:
            reasons[made.failure] += 1
            continue
        singular += made.fit.singular
        numbers.append(made.i)
        values.append(values_of(fitted.labels, made.fit))
    if len(values) < least:
        why = ", ".join(f"{name}: {count}" for name, count in reasons.items())
        raise InferenceError(
            f"of {n_boot} simulated responses only {len(values)} could be fitted ({why}): too few for "
            "percentiles."
            if reasons
            else f"{len(values)} draws are too few for percentiles."
        )
    return Draws(
        fitted.labels,
        tuple(values),
        sum(reasons.values()),
        singular,
        seed,
        check_option("kind", kind, KINDS),
        tuple(numbers),
        dict(reasons),
        first,
        n_boot,
    )


def values_of(labels: Labels, fit: Refit) -> Values:
    """The estimates of a refit by name."""
    return Values(labels, fit.beta, tuple(fit.sigma2 * (lam @ lam.T) for lam in fit.lam), fit.sigma2)


def percentiles(values: np.ndarray, alpha: float) -> np.ndarray:
    """Percentile intervals of columns, shape (q, 2); draws without a value (correlations) are left out."""
    out = np.full((values.shape[1], 2), np.nan)
    for j, column in enumerate(values.T):
        known = column[~np.isnan(column)]
        if known.size >= FEW:
            out[j] = np.quantile(known, [alpha / 2.0, 1.0 - alpha / 2.0])
    return out


def check_count(name: str, value: object, least: int) -> int:
    """An integer that is large enough.

    Raises
    ------
    OptionError
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise OptionError(f"{name}={value!r} must be an integer, {least} or more.")
    return int(value)


def check_workers(value: object) -> Workers:
    """A number of workers, or a client of a cluster.

    Raises
    ------
    OptionError
    """
    if all(hasattr(value, name) for name in ("submit", "scatter", "scheduler_info")):
        return value
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise OptionError(f"workers={value!r} must be an integer, 1 or more, or a distributed.Client.")
    return int(value)


def check_draws(n_boot: object, seed: object) -> tuple[int, int]:
    """Numbers of draws and seed, validated.

    Raises
    ------
    OptionError
    """
    return check_count("n_boot", n_boot, FEW), check_count("seed", seed, 0)
