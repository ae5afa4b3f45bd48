"""The command line: ``python -m mme FORMULA FILE``."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from support import load_data, reference_models

import mme
from mme.__main__ import _in_flags, main

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
    assert got["ddf"] == "satterthwaite"
    assert {k: v["df"] for k, v in got["fixed_effects"].items()} == results.df.to_dict()
    assert {k: v["p"] for k, v in got["fixed_effects"].items()} == results.pvalues.to_dict()
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
    refused = _error(capsys, SLOPE, str(path), "--missing", "raise")
    assert "Reaction (1); 1 of 180 rows" in refused
    assert "or use --missing drop." in refused
    assert "missing=" not in refused
    for flags, said in ([], "mme: warning: 1 of 180 rows were left out"), (["--missing", "drop"], ""):
        assert main([SLOPE, str(path), *flags, "--json", str(tmp_path / "o.json")]) == 0
        captured = capsys.readouterr()
        text = " ".join(captured.out.split())
        assert "No. observations: 179" in text
        assert "1 of 180 rows left out because of missing values." in text
        assert captured.err.startswith(said) and bool(captured.err) == bool(said)
        assert "missing=" not in captured.err
        got = json.loads((tmp_path / "o.json").read_text())
        assert (got["nobs"], got["n_dropped"]) == (179, 1)


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
    module = sys.modules["mme.lmm.model"]
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
    for flag in ("--ml", "--json", "--missing", "--solver", "--seed", "--version", "--evaluate", "--format"):
        assert flag in text


def test_text_columns_group_and_contrast(tmp_path, capsys):
    path = tmp_path / "m.csv"
    load_data("Machines").to_csv(path, index=False)
    assert main(["score ~ Machine + (1 | Worker/Machine)", str(path)]) == 0
    text = capsys.readouterr().out
    assert "Machine[T.B]" in text
    assert "Machine:Worker (18), Worker (6)" in text


# -- kinds of files -----------------------------------------------------------------------------------------

BEST = reference_models()["sleepstudy_slope"]["reml"]["loglik_best"]


def _loglik(tmp_path, *argv: str) -> float:
    out = tmp_path / "out.json"
    assert main([SLOPE, *argv, "--json", str(out)]) == 0
    return json.loads(out.read_text())["loglik"]


@pytest.mark.parametrize(
    "name", ["d.csv", "d.CSV", "d.csv.gz", "d.txt", "d", "d.tsv", "d.tab", "d.tsv.gz", "d.tsv.xz", "d.1.csv"]
)
def test_text_by_ending(tmp_path, name):
    path = tmp_path / name
    load_data("sleepstudy").to_csv(path, index=False, sep="\t" if ".t" in name and "txt" not in name else ",")
    assert _loglik(tmp_path, str(path)) == pytest.approx(BEST, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("d.parquet", "parquet"), ("d.pq", "parquet"), ("d.feather", "feather"), ("d.arrow", "feather")],
)
def test_arrow_files_by_ending_and_from_standard_input(tmp_path, monkeypatch, name, kind):
    pytest.importorskip("pyarrow")
    path = tmp_path / name
    getattr(load_data("sleepstudy"), f"to_{kind}")(path)
    assert _loglik(tmp_path, str(path)) == pytest.approx(BEST, abs=1e-6)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert _loglik(tmp_path, "-", "--format", kind) == pytest.approx(BEST, abs=1e-6)


def test_standard_input(csv, tmp_path):
    out = tmp_path / "fit.json"
    command = [sys.executable, "-m", "mme", SLOPE, "-", "--json", str(out)]
    subprocess.run(command, input=csv.read_bytes(), capture_output=True, check=True)
    assert json.loads(out.read_text())["loglik"] == pytest.approx(BEST, abs=1e-6)
    empty = subprocess.run(command, input=b"", capture_output=True)
    assert empty.returncode == 2
    assert b"standard input cannot be read as CSV" in empty.stderr


def test_files_that_are_something_else(tmp_path, csv, capsys):
    sheet = tmp_path / "d.xlsx"
    sheet.write_text("x")
    assert "files of type .xlsx are not read" in _error(capsys, SLOPE, str(sheet))
    assert "cannot be read as Parquet" in _error(capsys, SLOPE, str(csv), "--format", "parquet")
    assert "separated by commas: use --format csv" in _error(capsys, SLOPE, str(csv), "--format", "tsv")
    tabs, semicolons = tmp_path / "t.csv", tmp_path / "s.csv"
    load_data("sleepstudy").to_csv(tabs, index=False, sep="\t")
    assert "separated by tabs: use --format tsv" in _error(capsys, SLOPE, str(tabs))
    load_data("sleepstudy").to_csv(semicolons, index=False, sep=";")
    assert "separated by semicolons" in _error(capsys, SLOPE, str(semicolons))


def test_parquet_without_pyarrow(tmp_path, capsys, monkeypatch):
    def absent(*_):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr("pandas.read_parquet", absent)
    assert "needs pyarrow, which is not installed: pip install pyarrow" in _error(capsys, SLOPE, "d.parquet")


# -- options ------------------------------------------------------------------------------------------------


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"mme {mme.__version__}\n"


def test_options_of_the_engine(csv, tmp_path, capsys):
    out = tmp_path / "o.json"
    argv = [SLOPE, str(csv), "--json", str(out), "--solver", "iterative", "--seed", "7", "--probes", "20"]
    assert main(argv) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(20 probes, seed 7)" in text
    assert main([SLOPE, str(csv), "--json", str(out), "--max-evaluations", "1"]) == 3
    assert json.loads(out.read_text())["convergence"]["evaluations"] == 1
    capsys.readouterr()
    assert "seed must be an integer and at least 0" in _error(capsys, SLOPE, str(csv), "--seed", "-1")
    assert "tol must be a number above 0" in _error(capsys, SLOPE, str(csv), "--tol", "nan")


def _usage(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_options_of_other_software_are_answered(csv, capsys):
    base = (SLOPE, str(csv))
    assert "--REML: here write --ml" in _usage(capsys, *base, "--REML")
    assert "--missing drop leaves rows" in _usage(capsys, *base, "--na-action=na.omit")
    assert "only normal responses" in _usage(capsys, *base, "--family", "binomial")
    assert "unrecognized arguments: --nope." in _usage(capsys, *base, "--nope")
    assert "invalid choice: 'sometimes'" in _usage(capsys, *base, "--missing", "sometimes")


def test_a_subset(csv, capsys):
    assert main([SLOPE, str(csv), "--subset", "Days >= 2 and Subject != 308"]) == 0
    assert "Subset: 136 of 180 rows." in " ".join(capsys.readouterr().out.split())


# -- what formulas may do -----------------------------------------------------------------------------------


def test_formulas_are_no_code_unless_asked(csv, tmp_path, capsys):
    """The very program that calls is out of reach too."""
    ran = tmp_path / "ran"
    for code in (
        f"open('{ran}', 'w').close()",
        f"np.savetxt('{ran}', Days)",
        "Days.cumsum()",
        "I(args.file)",
    ):
        for formula in (f"Reaction ~ {code} + (1 | Subject)", f"Reaction ~ ({code} | Subject)"):
            message = _error(capsys, formula, str(csv))
            assert message.startswith("mme: FormulaError: ")
            assert "evaluate=" not in message
    assert not ran.exists()
    for subset in (f"Days.to_csv('{ran}') > 0", "Days > @args", "@pd.io.common.os.getpid() > 0"):
        message = _error(capsys, SLOPE, str(csv), "--subset", subset)
        assert "--evaluate safe accepts columns" in message
    assert not ran.exists()
    formula = "Reaction ~ Days.clip(2) + (1 | Subject)"
    assert "--evaluate full runs any Python" in _error(capsys, formula, str(csv))
    assert main([formula, str(csv), "--evaluate", "full", "--subset", "Days > Days.min()"]) == 0
    assert main(["Reaction ~ poly(Days, 2) + log(Days + 1) + (C(Days > 5) | Subject)", str(csv)]) == 0


def test_messages_speak_of_flags():
    for given, wanted in [
        ('or use missing="drop".', "or use --missing drop."),
        ("evaluate='full' runs any Python.", "--evaluate full runs any Python."),
        ("subset='x > 1' selects", "--subset 'x > 1' selects"),
        ("or use subset= to leave rows out", "or use --subset to leave rows out"),
        ("the limit is max_evaluations=.", "the limit is --max-evaluations."),
        ("more max_evaluations; tol=1e-8.", "more max_evaluations; --tol 1e-8."),
        ("I(x.missing=2) notol=3", "I(x.missing=2) notol=3"),
        ("write reml=True or reml=False.", "write --ml or nothing (REML)."),
    ]:
        assert _in_flags(given) == wanted


def test_json_has_no_degrees_of_freedom_where_the_summary_has_none(csv, tmp_path, capsys, monkeypatch):
    out = tmp_path / "fit.json"
    assert (
        main(["Reaction ~ Days + (1 | Subject)", str(csv), "--json", str(out), "--solver", "iterative"]) == 0
    )
    got = json.loads(out.read_text())
    assert got["ddf"] is None
    assert [(row["df"], row["p"]) for row in got["fixed_effects"].values()] == [(None, None)] * 2
    assert all(row["se"] > 0 for row in got["fixed_effects"].values())
    for module in ("report.summary", "inference.coefficients"):
        monkeypatch.setattr(f"mme.{module}.longer_than_the_fit", lambda fitted: 10.0)
    monkeypatch.setattr("mme.report.coefficients.inference_basis", lambda *_: pytest.fail("it was computed"))
    assert main([SLOPE, str(csv), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["ddf"] is None
    assert "longer than the fit" in capsys.readouterr().out
