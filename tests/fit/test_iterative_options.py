"""What a user of the iterative path sees: options and summary."""

from __future__ import annotations

import numpy as np
import pytest
from problems import build
from support import load_data

import mme
from mme.fit.fit import fit_design


def test_summary_says_how():
    data = load_data("Penicillin")
    results = mme.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", data, solver="iterative")
    text = str(results.summary())
    assert "iterative" in text
    assert "Monte Carlo" in text
    assert results.fit_info["solver"].startswith("iterative")


@pytest.mark.parametrize(
    "options",
    [
        {"probes": 1},
        {"probes": 20, "max_probes": 10},
        {"loglik_probes": 1},
        {"exact_steps": -1},
        {"probes": 12.5},
        {"loglik_probes": -3},
        {"seed": -1},
        {"seed": None},
        {"exact_steps": 1.5},
        {"goal": 0.0},
        {"goal": "x"},
        {"accuracy": float("nan")},
        {"accuracy": -1.0},
        {"solve_tol": 0.0},
    ],
)
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        fit_design(build("crossed2"), solver="iterative", **options)


def test_unknown_solver_and_option_are_named():
    with pytest.raises(ValueError, match="'itrative'"):
        fit_design(build("crossed2"), solver="itrative")
    with pytest.raises(TypeError, match="probs"):
        fit_design(build("crossed2"), solver="iterative", probs=3)


def test_loglik_can_be_left_out():
    fit = fit_design(build("crossed2"), solver="iterative", loglik_probes=0)
    assert np.isnan(fit.loglik) and np.isnan(fit.monte_carlo.loglik_error)
