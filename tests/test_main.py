"""The command line: ``python -m mme FORMULA FILE``."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from support import load_data, reference_models

import mme
from mme.__main__ import main

SLOPE = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "sleep.csv"
    load_data("sleepstudy").to_csv(path, index=False)
    return path


def _error(capsys, *argv: str) -> str:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_in_a_process_of_its_own(csv, tmp_path):
    out = tmp_path / "fit.json"
    done = subprocess.run(
        [sys.executable, "-m", "mme", SLOPE, str(csv), "--json", str(out)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fit by REML" in done.stdout
    assert "Converged" in done.stdout
    assert json.loads(out.read_text())["loglik"] == pytest.approx(-871.8141, abs=1e-4)


@pytest.mark.parametrize(("flags", "method"), [([], "reml"), (["--ml"], "ml")])
def test_json_holds_the_fit(csv, tmp_path, capsys, flags, method):
    out = tmp_path / "fit.json"
    assert main([SLOPE, str(csv), "--json", str(out), *flags]) == 0
    got = json.loads(out.read_text())
    expected = reference_models()["sleepstudy_slope"][method]
    results = mme.lmer(SLOPE, load_data("sleepstudy"), reml=method == "reml")
    assert got["method"] == method.upper()
    assert got["loglik"] == pytest.approx(expected["loglik_best"], abs=1e-6)
    assert got["theta"] == results.theta.tolist()
    assert got["sigma"] == results.sigma
    assert got["n_groups"] == {"Subject": 18}
    assert {k: v["estimate"] for k, v in got["fixed_effects"].items()} == results.fe_params.to_dict()
    assert {k: v["se"] for k, v in got["fixed_effects"].items()} == results.bse_fe.to_dict()
    assert [(row["grp"], row["var1"], row["var2"]) for row in got["varcorr"]] == [
        ("Subject", "(Intercept)", None),
        ("Subject", "Days", None),
        ("Subject", "(Intercept)", "Days"),
        ("Residual", None, None),
    ]
    np.testing.assert_array_equal([row["vcov"] for row in got["varcorr"]], results.varcorr["vcov"])
    assert got["convergence"]["converged"] is True
    assert got["convergence"]["evaluations"] >= 1
    assert ("fit by ML" in capsys.readouterr().out) == (method == "ml")


def test_shipped_data_by_name(capsys):
    assert main([SLOPE, "mme:sleepstudy"]) == 0
    assert "Subject (18)" in capsys.readouterr().out


def test_gzipped_file_and_solver(tmp_path, capsys):
    path = tmp_path / "penicillin.csv.gz"
    load_data("Penicillin").to_csv(path, index=False)
    assert main(["diameter ~ (1 | plate) + (1 | sample)", str(path), "--solver", "superlu"]) == 0
    assert "SuperLU" in capsys.readouterr().out


def test_a_singular_fit_has_valid_json(tmp_path, capsys):
    path, out = tmp_path / "d.csv", tmp_path / "fit.json"
    load_data("Dyestuff2").to_csv(path, index=False)
    assert main(["Yield ~ (1 | Batch)", str(path), "--json", str(out)]) == 0
    got = json.loads(out.read_text())
    assert got["is_singular"] is True
    assert got["convergence"]["singular"] == ["Batch"]
    assert "Singular: the covariance of Batch" in capsys.readouterr().out


def test_missing_values(tmp_path, capsys):
    data = load_data("sleepstudy").astype({"Reaction": float})
    data.loc[3, "Reaction"] = np.nan
    path = tmp_path / "holes.csv"
    data.to_csv(path, index=False)
    assert "Reaction (1)" in _error(capsys, SLOPE, str(path))
    assert main([SLOPE, str(path), "--missing", "drop"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "179" in text
    assert "1 rows with missing values were left out" in text


def test_errors_are_one_line(tmp_path, csv, capsys):
    assert "FormulaError" in _error(capsys, "Reaction ~ Dys + (1 | Subject)", str(csv))
    assert "no random term" in _error(capsys, "Reaction ~ Days", str(csv))
    assert "nope.csv" in _error(capsys, SLOPE, str(tmp_path / "nope.csv"))
    assert "sleepstudy.csv" in _error(capsys, SLOPE, "mme:nope")
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    assert "empty.csv cannot be read as CSV" in _error(capsys, SLOPE, str(empty))
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("a,b\n1,2\n1,2,3\n")
    assert "ragged.csv cannot be read as CSV" in _error(capsys, SLOPE, str(ragged))
    header = tmp_path / "header.csv"
    header.write_text("Reaction,Days,Subject\n")
    assert "0 rows" in _error(capsys, SLOPE, str(header))


def test_json_cannot_be_written(csv, tmp_path, capsys):
    assert main([SLOPE, str(csv), "--json", str(tmp_path / "no" / "fit.json")]) == 2
    assert "FileNotFoundError" in capsys.readouterr().err


def test_warnings_are_lines_on_stderr(tmp_path, capsys):
    data = load_data("sleepstudy")
    path = tmp_path / "twice.csv"
    data.assign(twice=2 * data.Days).to_csv(path, index=False)
    assert main(["Reaction ~ Days + twice + (1 | Subject)", str(path), "--json", str(tmp_path / "o")]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("mme: warning: ")
    assert "twice" in captured.err
    assert json.loads((tmp_path / "o").read_text())["fixed_effects"]["twice"]["estimate"] is None


def test_not_converged_is_status_3(csv, capsys, monkeypatch):
    module = sys.modules["mme.lmer"]
    fit_design = module.fit_design
    monkeypatch.setattr(module, "fit_design", lambda *a, **kw: fit_design(*a, **kw, max_evaluations=1))
    assert main([SLOPE, str(csv)]) == 3
    captured = capsys.readouterr()
    assert "NOT CONVERGED: " in captured.out
    assert captured.err == ""


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert 'python -m mme "Reaction ~ Days + (Days | Subject)" mme:sleepstudy' in text
    for flag in ("--ml", "--json", "--missing", "--solver"):
        assert flag in text


def test_text_columns_group_and_contrast(tmp_path, capsys):
    path = tmp_path / "m.csv"
    load_data("Machines").to_csv(path, index=False)
    assert main(["score ~ Machine + (1 | Worker/Machine)", str(path)]) == 0
    text = capsys.readouterr().out
    assert "Machine[T.B]" in text
    assert "Machine:Worker (18), Worker (6)" in text
