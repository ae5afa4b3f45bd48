"""Results of `lmer` at a given theta, by dense matrices: no search, no engine."""

from __future__ import annotations

import numpy as np
import oracle
import pandas as pd

from mme.engine.covariance.factors import theta_to_lam
from mme.fit.fit import Fit, FitRecord
from mme.lmm.model import LinearMixedModel
from mme.lmm.results import LinearMixedModelResults

SLOPE = "Reaction ~ Days + (Days | Subject)"
THETA = [0.966741773967412, 0.0151690588960361, 0.230909953207795]


def fit_record(**changes: object) -> FitRecord:
    values = {
        "converged": True,
        "message": "converged: given",
        "evaluations": 7,
        "iterations": 6,
        "gradient_norm": 1e-7,
        "newton_decrement": 1e-12,
        "solver": "dense (LAPACK)",
        "singular": (),
        "seconds": {"minimise": 0.002},
    }
    return FitRecord(**{**values, **changes})


def oracle_fit(design: object, theta: object, reml: bool = True, **record: object) -> Fit:
    """A Fit at a given theta, by dense matrices."""
    parts = oracle.split(design, np.atleast_1d(np.asarray(theta, dtype=float)))
    at = oracle.evaluate(design, parts, reml)
    lam = tuple(
        theta_to_lam(part, term.k, term.covariance) for part, term in zip(parts, design.terms, strict=True)
    )
    return Fit(
        reml=reml,
        theta=parts,
        lam=lam,
        sigma2=at.sigma2,
        deviance=at.deviance,
        loglik=-at.deviance / 2,
        beta=at.beta,
        vcov_beta=at.vcov_beta,
        u=at.u,
        kept=np.ones(design.p, dtype=bool),
        n=design.n,
        p=design.p,
        nu=design.n - design.p if reml else design.n,
        record=fit_record(**record),
        objective=None,
        design=design,
    )


def results_at(formula: str, data: pd.DataFrame, theta: object, reml: bool = True, **record: object):
    model = LinearMixedModel.from_formula(formula, data)
    return LinearMixedModelResults(model, oracle_fit(model.model_design.design, theta, reml, **record))
