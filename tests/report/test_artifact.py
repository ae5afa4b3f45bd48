"""Files of fits: what a loaded result predicts and says is what the fit did, without its rows."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support import load_data

import mme
from mme.exceptions import DataError, FormulaError, InferenceError, OptionError

DATA = Path(__file__).parent.parent / "data"
SLOPE = "Reaction ~ Days + (Days | Subject)"


@pytest.fixture(scope="module")
def sleep():
    frame = pd.read_csv(mme.data_path("sleepstudy.csv"))
    frame["half"] = np.where(frame["Days"] % 3 > 1, "late", "early")
    frame["third"] = pd.Categorical(np.minimum(frame["Days"] // 3, 2), categories=[2, 0, 1])
    frame["w"] = np.linspace(0.5, 1.5, 180)
    return frame


def again(results, tmp_path, **options):
    mme.save(results, tmp_path / "fit.mme")
    return mme.load(tmp_path / "fit.mme", **options)


FORMULAS = [
    SLOPE,
    "Reaction ~ Days + (Days || Subject)",
    "Reaction ~ poly(Days, 2) + (1 | Subject)",
    "Reaction ~ bs(Days, df=4) + (scale(Days) | Subject)",
    "Reaction ~ scale(Days) * half + (half | Subject)",
    "Reaction ~ C(half, contr.sum) + third + (third | Subject)",
    "Reaction ~ C(third, contr.helmert) + C(half, Treatment('late')) + (1 | Subject)",
    "Reaction ~ C(third, contr.poly) * Days + (1 | Subject)",
    "Reaction ~ np.log(Days + 1) + I(Days > 3) + offset(2 * Days) + (1 | Subject)",
    "Reaction ~ 0 + third:half + center(Days) + (1 | Subject:half)",
    "np.log(Reaction) ~ 0 + cr(Days, df=4) + (1 | Subject) + (1 | half)",
    "Reaction ~ 1 + (1 | Subject/half)",
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_predictions_of_lmer(sleep, tmp_path, formula):
    fit = mme.lmer(formula, sleep)
    got = again(fit, tmp_path)
    assert_allclose(got.predict(sleep), fit.fittedvalues, rtol=1e-13)
    assert_allclose(got.predict(sleep, random_effects=False), fit.fitted_fixed, rtol=1e-12)
    rows = sleep.sample(7, random_state=1)
    assert_allclose(got.predict(rows), fit.fittedvalues[rows.index], rtol=1e-13)
    assert got.predict(rows).index.equals(rows.index)
    assert got.formula == formula
    pd.testing.assert_frame_equal(got.coef_table(), fit.coef_table())
    pd.testing.assert_frame_equal(got.coef_table(ddf="kenward-roger"), fit.coef_table(ddf="kenward-roger"))
    pd.testing.assert_frame_equal(got.tidy(conf_int=True), fit.tidy(conf_int=True))
    pd.testing.assert_frame_equal(got.varcorr, fit.varcorr)
    for kind in (1, 2, 3):
        pd.testing.assert_frame_equal(got.anova(type=kind), fit.anova(type=kind))
    assert got.random_effects.keys() == fit.random_effects.keys()
    for group, frame in got.random_effects.items():
        pd.testing.assert_frame_equal(frame, fit.random_effects[group], check_names=False)


@pytest.mark.parametrize(
    ("formula", "re_formula"),
    [
        ("Reaction ~ Days", None),
        ("Reaction ~ center(Days) * half", "~Days"),
        ("Reaction ~ bs(Days, df=4) + C(half, Sum)", "~standardize(Days)"),
        ("Reaction ~ np.log(Days + 1) + third:half", "~0 + half"),
        ("Reaction ~ C(third, Treatment(1)) + standardize(Days)", "~Days"),
        ("Reaction ~ 0 + cr(Days, df=4)", "~1"),
    ],
)
def test_predictions_of_mixedlm(sleep, tmp_path, formula, re_formula):
    fit = mme.mixedlm(formula, sleep, groups="Subject", re_formula=re_formula).fit()
    got = again(fit, tmp_path)
    assert_allclose(got.predict(sleep), fit.fittedvalues, rtol=1e-13)
    assert_allclose(got.predict(sleep, random_effects=False), fit.predict(), rtol=1e-12)
    assert_allclose(got.predict(sleep.iloc[[5]]), fit.fittedvalues.iloc[[5]], rtol=1e-13)
    pd.testing.assert_frame_equal(got.coef_table(), fit.coef_table())
    pd.testing.assert_frame_equal(got.anova(), fit.anova())
    assert str(got.summary()) == str(fit.summary())
    assert_allclose(got.bse_fe, fit.bse_fe)
    for label, values in fit.random_effects.items():
        pd.testing.assert_series_equal(got.random_effects[label], values)


def test_mixedlm_read_by_formulaic(sleep, tmp_path, monkeypatch):
    import statsmodels.formula

    if not hasattr(statsmodels.formula, "options"):
        pytest.skip("this release of statsmodels reads formulas by patsy alone")
    monkeypatch.setattr(statsmodels.formula.options, "formula_engine", "formulaic")
    fit = mme.mixedlm("Reaction ~ scale(Days) + C(half)", sleep, groups="Subject", re_formula="~Days").fit()
    got = again(fit, tmp_path)
    assert_allclose(got.predict(sleep), fit.fittedvalues, rtol=1e-13)


def test_numbers_and_words(sleep, tmp_path):
    fit = mme.lmer(SLOPE, sleep)
    got = again(fit, tmp_path)
    for name in (
        "llf",
        "scale",
        "sigma",
        "aic",
        "bic",
        "nobs",
        "df_resid",
        "converged",
        "method",
        "n_groups",
    ):
        assert getattr(got, name) == getattr(fit, name), name
    assert_array_equal(got.fe_params, fit.fe_params)
    assert_array_equal(got.bse_fe, fit.bse_fe)
    assert_array_equal(got.cov_params(), fit.cov_params())
    pd.testing.assert_frame_equal(got.glance(), fit.glance())
    pd.testing.assert_frame_equal(got.contrast("Days = 10"), fit.contrast("Days = 10"))
    assert str(got.summary()) == str(fit.summary())
    assert got._repr_html_() == fit._repr_html_()
    assert got.fit_info["solver"] == fit.fit_info["solver"]
    assert "without rows" in repr(got)
    pd.testing.assert_frame_equal(
        got.emtrends([], "Days").frame, fit.emtrends([], "Days").frame, check_exact=False
    )


def test_standard_errors_of_the_fixed_part(sleep, tmp_path):
    """emmeans' row of the same combination: estimate, error and degrees of freedom."""
    fit = mme.lmer(SLOPE, sleep)
    got = again(fit, tmp_path).get_prediction({"Days": [0, 5]})
    want = [fit.contrast([1, 0]), fit.contrast([1, 5])]
    frame = got.summary_frame()
    for column, own in (
        ("mean", "estimate"), ("mean_se", "se"), ("mean_ci_lower", "lower"), ("mean_ci_upper", "upper"),
    ):  # fmt: skip
        assert_allclose(frame[column], [w[own].iloc[0] for w in want], rtol=1e-12, err_msg=column)
    assert_array_equal(got.predicted_mean, frame["mean"])
    assert_array_equal(got.se_mean, frame["mean_se"])
    assert_allclose(got.df, [w["df"].iloc[0] for w in want], rtol=1e-12)
    theirs = fit.get_prediction({"Days": [0, 5]}, random_effects=False)
    pd.testing.assert_frame_equal(frame, theirs.summary_frame(), rtol=1e-12)
    assert frame.attrs == theirs.summary_frame().attrs
    loaded = again(fit, tmp_path)
    with pytest.raises(InferenceError, match=r"errors of predictions .* not in the file"):
        loaded.get_prediction({"Days": [0], "Subject": [308]}, random_effects=True)


def test_new_levels_and_missing_values(sleep, tmp_path):
    fit = mme.lmer(SLOPE, sleep)
    got = again(fit, tmp_path)
    rows = pd.DataFrame({"Days": [1.0, 1.0, np.nan, 1.0], "Subject": [308, 999, 308, np.nan]})
    fixed = float(fit.fe_params @ [1, 1])
    assert_allclose(got.predict(rows), [fit.fittedvalues[1], fixed, np.nan, np.nan], rtol=1e-12)
    assert_allclose(got.predict(rows, False), [fixed, fixed, np.nan, fixed], rtol=1e-12)
    assert np.isnan(got.predict(rows, new_levels="missing")[1])
    with pytest.raises(DataError, match=r"levels that the fit did not have: Subject \(1 rows\)"):
        got.predict(rows, new_levels="error")
    with pytest.raises(OptionError, match="new_levels='zero'"):
        got.predict(rows, new_levels="zero")
    with pytest.raises(OptionError, match=r"'Day', which is no term or grouping factor\..*Known: Subject"):
        got.predict(rows, random_effects="Day")
    with pytest.raises(DataError, match="no column 'Days'"):
        got.predict({"Subject": [308]})
    assert_allclose(got.predict(sleep, random_effects=["Subject"]), fit.fittedvalues)


@pytest.mark.parametrize(
    "labels",
    [
        lambda s: s.astype(str),
        lambda s: s.astype(str).astype(object),
        lambda s: s.astype(float) / 7,
        lambda s: s.astype(str).astype("category"),
        lambda s: s.astype("Int64"),
        lambda s: pd.Timestamp("2020-01-01") + pd.to_timedelta(s, unit="D"),
        lambda s: s.astype(str).astype("string"),
    ],
)
def test_labels_of_any_type(sleep, tmp_path, labels):
    data = sleep.assign(g=labels(sleep["Subject"]), f=labels(sleep["Subject"] % 3))
    fit = mme.lmer("Reaction ~ Days + (Days | g)", data)
    got = again(fit, tmp_path)
    assert_allclose(got.predict(data), fit.fittedvalues, rtol=1e-13)
    assert list(got.random_effects["g"].index) == list(fit.random_effects["g"].index)


def test_rows_that_the_data_do_not_tell(sleep, tmp_path):
    """Days and twice Days: one is dropped, and rows where they differ have no prediction."""
    double = sleep.assign(double=2 * sleep["Days"])
    with pytest.warns(mme.exceptions.RankDeficientWarning):
        fit = mme.lmer("Reaction ~ Days + double + (1 | Subject)", double)
    rows = pd.DataFrame({"Days": [1, 1, 2], "double": [2, 7, 4], "Subject": 308})
    for got in (fit, again(fit, tmp_path)):
        for effects in (True, False):
            made = got.predict(rows, random_effects=effects)
            assert made.isna().tolist() == [False, True, False]
    for effects in (True, False):
        made = fit.get_prediction(rows, random_effects=effects)
        assert made.not_estimable == made.summary_frame().attrs["not_estimable"] == 1
        assert made.summary_frame().isna().all(axis=1).tolist() == [False, True, False]
        plain = mme.lmer("Reaction ~ Days + (1 | Subject)", sleep).get_prediction(rows, effects)
        assert_allclose(made.summary_frame().iloc[[0, 2]], plain.summary_frame().iloc[[0, 2]], rtol=1e-6)
    with pytest.warns(mme.exceptions.RankDeficientWarning):
        door = mme.mixedlm("Reaction ~ Days + double", double, groups="Subject").fit()
    assert door.get_prediction(rows).predicted_mean.isna().tolist() == [False, True, False]


def test_iterative_fits(sleep, tmp_path):
    fit = mme.lmer("Reaction ~ Days + (1 | Subject) + (1 | half)", sleep, solver="iterative")
    got = again(fit, tmp_path)
    assert_allclose(got.predict(sleep), fit.fittedvalues, rtol=1e-13)
    with pytest.raises(InferenceError):
        got.coef_table()
    assert_allclose(got.coef_table(ddf="normal")["se"], fit.bse_fe)
    fit.coef_table()
    pd.testing.assert_frame_equal(again(fit, tmp_path).coef_table(), fit.coef_table())


def test_the_file_holds_no_rows_and_no_pickles(sleep, tmp_path):
    data = pd.concat([sleep] * 20, ignore_index=True)
    mme.lmer(SLOPE, data).save(tmp_path / "fit.mme")
    assert (tmp_path / "fit.mme").stat().st_size < 12_000
    assert [p.name for p in tmp_path.iterdir()] == ["fit.mme"]
    with zipfile.ZipFile(tmp_path / "fit.mme") as archive:
        for name in archive.namelist():
            assert name == "model.json" or name.endswith(".npy")
            if name.endswith(".npy"):
                with archive.open(name) as member:
                    assert np.lib.format.read_array(member, allow_pickle=False).size < len(data)
        content = json.loads(archive.read("model.json"))
    assert (content["format"], content["version"]) == ("mme model", 1)


def test_one_fit_makes_one_file_and_a_loaded_one_is_stored_again(sleep, tmp_path):
    fit = mme.lmer(SLOPE, sleep)
    mme.save(fit, tmp_path / "a")
    mme.save(fit, tmp_path / "b")
    mme.load(tmp_path / "a").save(tmp_path / "c")
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def _double(x):
    return 2.0 * x


def test_functions_of_the_caller_are_named(sleep, tmp_path):
    k = 3.0
    fit = mme.lmer("Reaction ~ _double(Days) + I(Days > k) + (1 | Subject)", sleep)
    safe = again(fit, tmp_path)
    with pytest.raises(FormulaError, match=r"_double\(Days\) is Python beyond columns.*evaluate='full'"):
        safe.predict(sleep)
    assert safe.fe_params.equals(fit.fe_params)
    full = mme.load(tmp_path / "fit.mme", evaluate="full")
    with pytest.raises(FormulaError, match=r"'_double' of the caller was not restored.*context="):
        full.predict(sleep)
    assert_allclose(full.predict(sleep, context={"_double": _double}), fit.fittedvalues, rtol=1e-13)
    assert k == 3.0


def test_python_in_a_file_is_not_run(sleep, tmp_path):
    fit = mme.lmer("Reaction ~ np.log(Days + 1) + (1 | Subject)", sleep)
    mme.save(fit, tmp_path / "fit.mme")
    door = mme.mixedlm("Reaction ~ np.log(Days + 1)", sleep, groups="Subject").fit()
    mme.save(door, tmp_path / "door.mme")
    for name in ("fit.mme", "door.mme"):
        evil = tmp_path / f"evil_{name}"
        with zipfile.ZipFile(tmp_path / name) as archive, zipfile.ZipFile(evil, "w") as out:
            for member in archive.namelist():
                raw = archive.read(member)
                out.writestr(member, raw.replace(b"np.log(Days + 1)", b"__import__('os').getcwd()"))
        with pytest.raises(FormulaError, match="which is not evaluated from a file"):
            mme.load(evil).predict(sleep)


class _Own:
    def __lt__(self, other):
        return True


def test_what_cannot_be_stored_is_refused_by_name(sleep, tmp_path):
    from formulaic.transforms.contrasts import TreatmentContrasts

    class Mine(TreatmentContrasts):
        FACTOR_FORMAT = "{name}[mine.{field}]"

    mine = Mine()
    fit = mme.lmer("Reaction ~ C(half, mine) + (1 | Subject)", sleep)
    with pytest.raises(DataError, match=r"'C\(half, mine\)' has contrasts of type Mine"):
        mme.save(fit, tmp_path / "fit.mme")
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="results of a fit are stored, not DataFrame"):
        mme.save(sleep, tmp_path / "fit.mme")
    assert mine is not None


def test_what_a_loaded_result_has_not(sleep, tmp_path):
    fit = mme.lmer(SLOPE, sleep)
    got = again(fit, tmp_path)
    with pytest.raises(AttributeError, match="'resid' is not in the file: LinearMixedModelResults has it"):
        _ = got.resid
    with pytest.raises(AttributeError, match=r"no attribute 'VarCorr'; did you mean varcorr\?"):
        _ = got.VarCorr
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        _ = got.zzz
    for call in (got.ranef_table, lambda: got.tidy("ran_vals")):
        with pytest.raises(InferenceError, match="errors of random effects are not in the file"):
            call()
    for call in (got.augment, lambda: got.emmeans([], weights="cells")):
        with pytest.raises((InferenceError, AttributeError)):
            call()
    two = again(mme.lmer("Reaction ~ late + (1 | Subject)", sleep.assign(late=sleep["Days"] % 2)), tmp_path)
    with pytest.raises(InferenceError, match=r"emmeans\(\) is not in the file: .* late has two values"):
        two.emmeans([])
    copied = pickle.loads(pickle.dumps(mme.load(tmp_path / "fit.mme")))
    assert copied.llf == two.llf


def test_models_without_a_coding(sleep, tmp_path):
    arrays = mme.MixedLM(sleep["Reaction"], np.c_[np.ones(180), sleep["Days"]], sleep["Subject"]).fit()
    got = again(arrays, tmp_path)
    assert_allclose(got.fe_params, arrays.fe_params)
    assert str(got.summary()) == str(arrays.summary())
    with pytest.raises(DataError, match="new rows cannot be coded: this model was made of arrays"):
        got.predict(sleep)
    machines = load_data("Machines")
    kwargs = {"groups": "Worker", "re_formula": "1", "vc_formula": {"m": "0 + C(Machine)"}}
    fit = mme.mixedlm("score ~ Machine", machines, **kwargs).fit()
    got = again(fit, tmp_path)
    assert_allclose(got.predict(machines, random_effects=False), fit.predict())
    assert_allclose(got.predict(machines), fit.fittedvalues, rtol=1e-12)
    relative = mme.mixedlm(
        "score ~ Machine", machines, **{**kwargs, "vc_formula": {"m": "1 + C(Machine)"}}
    ).fit()
    other = again(relative, tmp_path)
    assert_allclose(other.predict(machines, random_effects=False), relative.predict())
    with pytest.raises(DataError, match=r"the variance components m .*random_effects=False"):
        other.predict(machines)
    for label, values in fit.random_effects.items():
        pd.testing.assert_series_equal(got.random_effects[label], values)


@pytest.mark.parametrize("kind", ["removed", "singular", "penalized", "no fixed effects", "perfect"])
def test_fits_of_every_kind(sleep, tmp_path, kind):
    from statsmodels.base._penalties import L2

    noise = sleep.assign(z=np.random.default_rng(0).normal(size=180), s=sleep["Subject"].astype(float))
    if kind == "singular":
        fit = mme.lmer("z ~ Days + (Days | Subject)", noise)
        assert fit.is_singular
    elif kind == "no fixed effects":
        fit = mme.lmer("Reaction ~ 0 + (Days | Subject)", sleep)
    elif kind == "perfect":
        with pytest.warns(mme.exceptions.PerfectFitWarning):
            fit = mme.mixedlm("s ~ 1", noise, groups="Subject").fit()
    else:
        options = {"fe_pen": L2(), "method": "bfgs"} if kind == "penalized" else {}
        fit = mme.mixedlm("Reaction ~ Days", sleep, groups="Subject").fit(**options)
    rows = np.asarray(fit.fittedvalues)
    if kind == "removed":
        fit.remove_data()
    got = again(fit, tmp_path)
    assert str(got.summary()) == str(fit.summary())
    pd.testing.assert_frame_equal(got.tidy(ddf="normal"), fit.tidy(ddf="normal"))
    if kind == "removed":
        with pytest.raises(DataError, match="new rows cannot be coded"):
            got.predict(sleep)
    else:
        assert_allclose(got.predict(noise), rows, rtol=1e-12)


def test_an_offset_that_was_an_array(sleep, tmp_path):
    shift = np.linspace(0, 3, 180)
    fit = mme.lmer(SLOPE, sleep, offset=shift, weights=sleep["w"])
    got = again(fit, tmp_path)
    with pytest.raises(DataError, match="offset was an array in the fit"):
        got.predict(sleep)
    assert_allclose(got.predict(sleep, offset=shift), fit.fittedvalues, rtol=1e-13)
    by_name = again(mme.lmer(SLOPE, sleep.assign(o=shift), offset="o"), tmp_path)
    assert_allclose(by_name.predict(sleep.assign(o=shift)), by_name.predict(sleep.assign(o=0.0)) + shift)


def test_dropped_columns(sleep, tmp_path):
    data = sleep.assign(twice=2.0 * sleep["Days"])
    with pytest.warns(mme.exceptions.RankDeficientWarning):
        fit = mme.lmer("Reaction ~ Days + twice + (1 | Subject)", data)
    got = again(fit, tmp_path)
    assert_allclose(got.predict(data), fit.fittedvalues, rtol=1e-12)
    assert np.isnan(got.predict(data.assign(twice=1.0), False)[1:]).all()  # the data do not tell them apart


def test_files_that_are_none(sleep, tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        mme.load(tmp_path / "nothing")
    (tmp_path / "p").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DataError, match=r"is no file of mme.save .*pickles are read by pickle.load"):
        mme.load(tmp_path / "p")
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(DataError, match=r"is no file of mme\.save"):
        mme.load(tmp_path / "z")
    with zipfile.ZipFile(tmp_path / "later", "w") as archive:
        archive.writestr("model.json", json.dumps({"format": "mme model", "version": 2, "mme": "9.0"}))
    with pytest.raises(DataError, match=r"has format 2, written by mme 9\.0.*reads formats up to 1"):
        mme.load(tmp_path / "later")
    with zipfile.ZipFile(tmp_path / "half", "w") as archive:
        archive.writestr("model.json", json.dumps({"format": "mme model", "version": 1, "mme": "0.1"}))
    with pytest.raises(DataError, match="is damaged"):
        mme.load(tmp_path / "half")
    with pytest.raises(OptionError, match="evaluate='all'"):
        mme.load(tmp_path / "p", evaluate="all")


@pytest.mark.parametrize("name", ["lmer", "mixedlm"])
def test_files_of_format_1(sleep, name):
    """Written by mme 0.1.0 (tests/data/README.md); what is read from them does not change."""
    got = mme.load(DATA / f"format1_{name}.mme")
    with open(DATA / "format1.json") as file:
        want = json.load(file)[name]
    rows = pd.DataFrame(want["rows"])
    assert_allclose(got.predict(rows), want["predict"], rtol=1e-12)
    made = got.get_prediction(rows)
    assert_allclose(made.summary_frame()["mean_se"], want["mean_se"], rtol=1e-10)
    assert_allclose(made.df, want["df"], rtol=1e-8)
    assert got.llf == want["llf"] and got.formula == want["formula"]
    assert want["words"] in str(got.summary())
