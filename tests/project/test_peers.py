"""benchmarks/peers.py: its command line, tables and processes; no timing."""

from __future__ import annotations

import argparse
import queue
import sys

import pandas as pd
import pytest

from benchmarks import adapters, peers, problems, tables
from benchmarks.tables import Cell, Row

GIB = 1 << 30


def test_lists_of_names():
    assert peers.parse_list("b, a,b", ["a", "b"], "peer") == ["b", "a"]
    assert peers.parse_list("all", ["a", "b"], "peer") == ["a", "b"]
    for text in ("c", "a,c", "", ","):
        with pytest.raises(argparse.ArgumentTypeError, match="there are a, b"):
            peers.parse_list(text, ["a", "b"], "peer")


def test_command_line():
    options = peers.arguments(["--workloads", "slope20k,sleepstudy", "--peers", "mme", "--limit", "60"])
    assert options.workloads == ["slope20k", "sleepstudy"]
    assert (options.peers, options.limit, options.json) == (["mme"], 60.0, None)
    assert peers.arguments([]).workloads == list(problems.PEERS)
    with pytest.raises(SystemExit):
        peers.arguments(["--peers", "nobody"])


@pytest.mark.parametrize(
    "first, expected", [(1e-6, 25), (0.5, 25), (1.0, 20), (6.0, 3), (10.0, 3), (11, 1), (100, 1)]
)
def test_fast_fits_are_repeated_more_often(first, expected):
    assert peers.repeats(first, 20.0) == expected


@pytest.mark.parametrize(
    "value, text",
    [
        (0.00123456, "0.00123"),
        (0.0995, "0.0995"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (99.96, "100.0"),
        (206, "206"),
    ],
)
def test_three_digits(value, text):
    assert tables.seconds_text(value) == text


def cells() -> dict[str, Cell]:
    """mme and one peer at the best, one short of it, an approximate one above, three without a time."""
    return {
        "mme": Cell(seconds=[0.3, 0.1, 0.2], loglik=-100.0),
        "slow": Cell(seconds=[2.0], loglik=-100.0 - 1e-7),
        "short": Cell(seconds=[0.1], loglik=-101.45),
        "stochastic": Cell(seconds=[1.0], loglik=-97.0, method="ML", approximate=True),
        "late": Cell("limit"),
        "crossed": Cell("cannot", note="crossed factors"),
        "absent": Cell("missing"),
    }


def test_gaps_are_to_the_best_exact_fit_or_the_reference():
    found = cells()
    tables.set_gaps(found, None, lambda formula: -98.0)
    assert found["mme"].gap == 0.0
    assert found["slow"].gap == pytest.approx(1e-7)
    assert not found["slow"].misses
    assert found["short"].gap == pytest.approx(1.45)
    assert found["short"].misses
    assert found["stochastic"].gap == pytest.approx(-1.0)
    assert found["late"].gap is None
    tables.set_gaps(found, -99.5, lambda formula: None)
    assert found["mme"].gap == pytest.approx(0.5)
    assert found["stochastic"].gap is None


def test_another_model_is_compared_with_itself():
    found = {"mme": Cell(loglik=-100.0), "other": Cell(loglik=-90.0, formula="y ~ (x || g)")}
    tables.set_gaps(found, None, {"y ~ (x || g)": -89.0}.get)
    assert found["mme"].gap == 0.0
    assert found["other"].gap == 1.0


def test_tables():
    found = cells()
    tables.set_gaps(found, -100.0, lambda formula: -98.0)
    rows = [Row("toy", "a model", found)]
    table = tables.times_table(rows, list(found), 120.0).splitlines()
    assert table[1] == "| --- | --- |" + " --: |" * 8
    assert table[2].strip("| ").split(" | ") == [
        "toy",
        "a model",
        "0.200",
        "2.00",
        "0.100 (misses by 1.5)",
        "1.00 (ML, approx.)",
        "> 120",
        "cannot",
        "",
        "10 (slow)",
    ]
    gaps = tables.gaps_table(rows, list(found)).splitlines()[2]
    assert gaps.split(" | ")[1:5] == ["0", "1.0e-07", "1.5e+00", "≈ -1.0e+00"]
    printed = tables.report(rows, list(found), 120.0, ["Machine: M."], {"mme": "note"})
    assert "- toy, crossed: crossed factors" in printed
    assert "mme is short" not in printed


def test_mme_short_of_the_reference_is_reported():
    found = {"mme": Cell(seconds=[1.0], loglik=-100.0)}
    tables.set_gaps(found, -99.9, lambda formula: None)
    assert tables.short_of_best([Row("toy", "", found)]) == ["mme on toy: 0.1"]


@pytest.mark.parametrize(
    "text, names",
    [
        ("y ~ x + (x | g) + (1 | a/b)", ["g", "a", "b"]),
        ("y ~ x + (x||g)", ["g"]),
        ("y ~ r*C(t) + (1|r:k)", ["r", "k"]),
        ("y ~ x", []),
    ],
)
def test_grouping_columns(text, names):
    assert problems.grouping_columns(text) == names


def test_random_terms_are_taken_out_of_the_right_hand_side():
    assert adapters._without_bars(" a*C(b) + (1|g) + I((a + b)**2)").replace(" ", "") == "a*C(b)++I((a+b)**2)"


@pytest.mark.parametrize("name", list(problems.PEERS))
def test_every_workload_has_a_model(name):
    problem = problems.problem(name)
    assert problem.formula and problem.formula_r and problems.grouping_columns(problem.formula)


def test_categorical_variant_leaves_the_data_alone():
    data = pd.DataFrame({"y": [1.0, 2.0], "g": [3, 4]})
    frames = adapters._frames(problems.Problem("toy", "y ~ 1 + (1 | g)", ""), data)
    assert list(frames) == ["as given", "categorical"]
    assert frames["as given"] is data and data["g"].dtype == "int64"


def worker(code: str) -> peers.Worker:
    """A process that runs `code`, in which answer(text) writes an answer."""
    head = f"import sys\ndef answer(t): print({adapters.MARKER!r} + t, flush=True)\n"
    return peers.Worker([sys.executable, "-c", head + code], 4 * GIB)


def test_process_answers_and_fails():
    process = worker(
        "print('chatter')\nanswer('{\"seconds\": 1}')\n"
        "for line in sys.stdin:\n"
        "    if 'fit 1' in line: answer('{\"error\": \"singular\"}')\n"
        "    elif 'fit' in line: answer('{\"seconds\": 2}')\n"
        "    else: sys.exit('the end')\n"
    )
    try:
        assert process.answer(20) == {"seconds": 1}
        assert process.ask("fit 0", 20) == {"seconds": 2}
        with pytest.raises(peers.WorkerError, match="singular"):
            process.ask("fit 1", 20)
        with pytest.raises(peers.WorkerError, match="status 1: the end"):
            process.ask("stop", 20)
    finally:
        process.close()


def test_process_over_its_time_limit():
    process = worker("import time\ntime.sleep(60)\n")
    with pytest.raises(queue.Empty):
        process.ask("fit 0", 0.05)
    process.close()
    assert process.process.returncode is not None


def test_what_is_not_installed_is_reported(monkeypatch):
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    gone = adapters.Adapter("gone", "no_such_module_of_that_name", adapters._mme, "")
    monkeypatch.setitem(adapters.ADAPTERS, "gone", gone)
    assert peers.installed(["lme4", "gone"]) == {"lme4": None, "gone": None}
    text = "\n".join(peers.describe({"mme": "1", "lme4": None}, {}, [0.0, 0.0]))
    assert "Not installed: lme4" in text
