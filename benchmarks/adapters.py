"""What each implementation needs to fit a workload; run as a script it is the process that fits on command.

An adapter takes a workload and its data frame and returns variants: functions of no argument that fit once,
data frame (and formula) in.  What is done before the variants are returned (imports, conversion of
grouping columns) is not timed.  Integer grouping columns come as they are and as categoricals, where an
implementation accepts both: the faster one counts.

`peers.py` starts one process for each implementation and workload and writes commands to it, one a line:
``fit I`` (variant I) or ``ml FORMULA`` (log-likelihood of the maximum likelihood fit, mme only).
Answers are lines of JSON after a marker; anything else a library prints goes to stderr.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import problems
from benchmarks.problems import Problem

__all__ = ["ADAPTERS", "MARKER", "Adapter", "CannotFit", "Outcome"]

MARKER = "@@peers "


class CannotFit(Exception):
    """The implementation has no way to state or fit this workload; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What a fit reached.

    Attributes
    ----------
    loglik : float
        Log-likelihood as the implementation reports it, lme4's constants.
    method : {"REML", "ML"}
    approximate : bool
        The log-likelihood itself is an approximation.
    formula : str
        Model that was fitted where it is not the workload's; empty otherwise.
    """

    loglik: float
    method: str = "REML"
    approximate: bool = False
    formula: str = ""


Variants = dict[str, Callable[[], Outcome]]


@dataclass(frozen=True)
class Adapter:
    """One implementation.

    Attributes
    ----------
    name : str
    package : str
        Distribution and module; empty for lme4, which R runs.
    prepare : callable
        Of a problem and its data; variants by name.
    note : str
        How it is called, for the reader of the table.
    """

    name: str
    package: str
    prepare: Callable[[Problem, pd.DataFrame], Variants]
    note: str

    def version(self) -> str | None:
        """Installed version; None if it is not installed."""
        if not importlib.util.find_spec(self.package):
            return None
        try:
            return version(self.package)
        except PackageNotFoundError:
            return "?"


def _frames(problem: Problem, data: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The data as they are and, where that differs, with categorical grouping columns."""
    names = problems.grouping_columns(problem.formula)
    frames = {"as given": data}
    if any(not isinstance(data[name].dtype, pd.CategoricalDtype) for name in names):
        frames["categorical"] = data.assign(**{name: data[name].astype("category") for name in names})
    return frames


def _mme(problem: Problem, data: pd.DataFrame) -> Variants:
    import mme

    return {"as given": lambda: Outcome(mme.lmer(problem.formula, data).llf)}


def _grouped(model: type, problem: Problem, data: pd.DataFrame) -> Variants:
    """`MixedLM.from_formula` of mme or of statsmodels."""
    spec = problems.GROUPED.get(problem.name)
    if spec is None:
        raise CannotFit("crossed factors")

    def fit() -> Outcome:
        built = model.from_formula(
            spec.fixed, data, groups=spec.groups, re_formula=spec.random, vc_formula=spec.components
        )
        return Outcome(float(built.fit().llf))

    return {"as given": fit}


def _mixedlm_of_mme(problem: Problem, data: pd.DataFrame) -> Variants:
    import mme

    return _grouped(mme.MixedLM, problem, data)


def _statsmodels(problem: Problem, data: pd.DataFrame) -> Variants:
    from statsmodels.regression.mixed_linear_model import MixedLM

    return _grouped(MixedLM, problem, data)


def _glmm(problem: Problem, data: pd.DataFrame) -> Variants:
    import glmm

    def variant(frame: pd.DataFrame) -> Callable[[], Outcome]:
        # the default fit also computes Satterthwaite degrees of freedom and tests; mme's does not
        return lambda: Outcome(
            glmm.fit(frame, problem.formula, satterthwaite=False, anova_test="Wald").loglik
        )

    return {name: variant(frame) for name, frame in _frames(problem, data).items()}


def _mixedlm(problem: Problem, data: pd.DataFrame) -> Variants:
    import mixedlm

    def variant(frame: pd.DataFrame) -> Callable[[], Outcome]:
        return lambda: Outcome(float(mixedlm.lmer(problem.formula, frame).logLik().value))

    return {name: variant(frame) for name, frame in _frames(problem, data).items()}


# workload -> grouping columns, nested pairs joined by ":"; slope column; its model where that differs
_GPBOOST: dict[str, tuple[list[str], str | None, str]] = {
    "sleepstudy": (["Subject"], "Days", "Reaction ~ Days + (Days || Subject)"),
    "chem97": (["lea", "lea:school"], None, ""),
    "slope20k": (["g"], "x", "y ~ x + (x || g)"),
    "insteval_1": (["s", "d", "dept"], None, ""),
    "vc8": ([f"f{i}" for i in range(8)], None, ""),
    "ml100k": (["u", "m"], None, ""),
    "ml1m": (["u", "m"], None, ""),
    "intercept1m": (["g"], None, ""),
    "nested1m": (["school", "school:klass"], None, ""),
    "slope1m": (["g"], "x", "y ~ x + (x || g)"),
}


def _gpboost(problem: Problem, data: pd.DataFrame) -> Variants:
    import gpboost
    import numpy as np
    from formulaic import model_matrix

    if problem.name not in _GPBOOST:
        raise CannotFit("correlated vector terms")
    columns, slope, other = _GPBOOST[problem.name]
    codes = [data.groupby(column.split(":"), sort=False).ngroup().to_numpy() for column in columns]
    groups = np.column_stack(codes)
    response, fixed = problem.formula.split("~")
    fixed = "+".join(part for part in _without_bars(fixed).split("+") if part.strip()) or "1"
    X = np.asarray(model_matrix(fixed, data), dtype=np.float64)
    y = data[response.strip()].to_numpy(np.float64)

    def fit() -> Outcome:
        options: dict = {}
        if slope is not None:
            options = {
                "group_rand_coef_data": data[slope].to_numpy(np.float64),
                "ind_effect_group_rand_coef": [1],
            }
        model = gpboost.GPModel(group_data=groups, likelihood="gaussian", **options)
        model.fit(y=y, X=X)
        # with several random terms its default is iterative: stochastic Lanczos quadrature
        several = len(columns) > 1 or slope is not None
        return Outcome(-float(model.get_current_neg_log_likelihood()), "ML", several, other)

    return {"arrays": fit}


def _without_bars(fixed: str) -> str:
    """The right-hand side without its random terms."""
    out, depth, start = "", 0, 0
    for i, character in enumerate(fixed):
        if character == "(":
            if depth == 0:
                start = i
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                part = fixed[start : i + 1]
                out += "" if "|" in part else part
        elif depth == 0:
            out += character
    return out


ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter("mme", "mme", _mme, "mme.lmer(formula, data)"),
        Adapter("mme.MixedLM", "mme", _mixedlm_of_mme, "mme.MixedLM.from_formula(...).fit()"),
        Adapter("statsmodels", "statsmodels", _statsmodels, "MixedLM.from_formula(...).fit()"),
        Adapter("glmm", "glmm", _glmm, "glmm.fit(..., satterthwaite=False, anova_test='Wald')"),
        Adapter("mixedlm", "mixedlm", _mixedlm, "mixedlm.lmer(formula, data)"),
        Adapter("gpboost", "gpboost", _gpboost, "GPModel(...).fit(y, X): ML, uncorrelated slopes"),
    )
}


def _blas() -> list[str]:
    from threadpoolctl import threadpool_info

    return sorted(
        {
            f"{lib.get('internal_api')} {lib.get('version')} ({lib.get('num_threads')} threads)"
            for lib in threadpool_info()
            if lib.get("user_api") == "blas"
        }
    )


def _serve(name: str, workload: str, path: str) -> None:
    """Answer commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(MARKER + json.dumps(fields) + "\n")
        answers.flush()

    warnings.simplefilter("ignore")
    try:
        variants = ADAPTERS[name].prepare(problems.problem(workload), pd.read_pickle(path))
    except CannotFit as error:
        answer(cannot=str(error))
        return
    answer(variants=list(variants), blas=_blas())
    functions = list(variants.values())
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        try:
            if command == "ml":
                import mme

                answer(loglik=mme.lmer(argument, pd.read_pickle(path), reml=False).llf)
                continue
            start = time.perf_counter()
            outcome = functions[int(argument)]()
            answer(seconds=time.perf_counter() - start, **asdict(outcome))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}"[:300])


if __name__ == "__main__":
    _serve(*sys.argv[1:4])
