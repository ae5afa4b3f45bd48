"""Whole fits, data frame and formula in, by structure of the model; kernels compiled before."""

from __future__ import annotations

import mme

from . import problems


class _Fit:
    """REML fit through lmer, and what it reached."""

    params: tuple[str, ...] = ()
    param_names = ("workload",)
    timeout = 300
    warmup_time = 0.0
    rounds = 1

    def _fit_once(self) -> dict[str, dict[str, float | None]]:
        """Evaluations, deviance gap and non-zeros of the factor of every workload."""
        out = {}
        for name in self.params:
            fit = mme.lmer(problems.formula(name), problems.data(name)).fit
            best = problems.reference(name)
            out[name] = {
                "evaluations": fit.record.evaluations,
                "gap": None if best is None else 2.0 * (best - fit.loglik),
                "nnz": fit.objective.plan.nnz_factor,
            }
        return out

    def setup(self, reached: dict, workload: str) -> None:
        self.data = problems.data(workload)
        self.formula = problems.formula(workload)

    def time_lmer(self, reached: dict, workload: str) -> None:
        mme.lmer(self.formula, self.data)

    def track_evaluations(self, reached: dict, workload: str) -> float:
        """Factorizations of the fit."""
        return reached[workload]["evaluations"]

    def track_deviance_gap(self, reached: dict, workload: str) -> float:
        """Deviance above the best known one; not a number where none is known."""
        gap = reached[workload]["gap"]
        return float("nan") if gap is None else gap

    def track_nnz_factor(self, reached: dict, workload: str) -> float:
        """Non-zeros of the factor of the Schur complement."""
        return reached[workload]["nnz"]

    track_evaluations.unit = "evaluations"
    track_deviance_gap.unit = "deviance"
    track_nnz_factor.unit = "non-zeros"


class Scalar(_Fit):
    params = tuple(problems.STRUCTURES["scalar"])

    def setup_cache(self) -> dict:
        return self._fit_once()


class Vector(_Fit):
    params = tuple(problems.STRUCTURES["vector"])

    def setup_cache(self) -> dict:
        return self._fit_once()


class Nested(_Fit):
    params = tuple(problems.STRUCTURES["nested"])

    def setup_cache(self) -> dict:
        return self._fit_once()


class Crossed(_Fit):
    params = tuple(problems.STRUCTURES["crossed"])

    def setup_cache(self) -> dict:
        return self._fit_once()


class CrossedVector(_Fit):
    params = tuple(problems.STRUCTURES["crossed vector"])

    def setup_cache(self) -> dict:
        return self._fit_once()


class ManyComponents(_Fit):
    params = tuple(problems.STRUCTURES["many components"])

    def setup_cache(self) -> dict:
        return self._fit_once()


class MixedLM:
    """The same engine through statsmodels' signature."""

    params = ("sleepstudy", "chem97", "slope20k", "intercept100k", "nested10k")
    param_names = ("workload",)
    timeout = 300
    warmup_time = 0.0
    rounds = 1

    def setup(self, workload: str) -> None:
        self.data = problems.data(workload)
        self.model = problems.GROUPED[workload]
        self.time_mixedlm(workload)

    def time_mixedlm(self, workload: str) -> None:
        spec = self.model
        mme.MixedLM.from_formula(
            spec.fixed,
            self.data,
            groups=spec.groups,
            re_formula=spec.random,
            vc_formula=spec.components,
        ).fit()
