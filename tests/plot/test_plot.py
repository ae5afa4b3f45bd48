"""Every picture is drawn, shows the numbers it stands for, and takes few levels and many."""

from __future__ import annotations

import builtins
import inspect
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import load_data

import mme
from mme.exceptions import InferenceError, OptionError

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plot')")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def drawn():
    """Every figure that a test makes is rendered."""
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


def make(q: int, per: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(q), per)
    n = g.size
    data = pd.DataFrame(
        {
            "g": g,
            "x": rng.uniform(0.0, 10.0, n),
            "a": rng.choice(list("pqr"), n),
            "t": rng.choice(["no", "yes"], n),
        }
    )
    b = rng.normal(size=(q, 2)) * [1.0, 0.3]
    data["y"] = 5.0 + 0.5 * data.x + (data.a == "q") + (data.t == "yes") + rng.normal(size=n)
    data["y"] += b[g, 0] + b[g, 1] * data.x
    return data


@pytest.fixture(scope="module", params=[(5, 14), (20_000, 4)], ids=["few", "many"])
def result(request):
    return mme.lmer("y ~ x + a * t + (x | g)", make(*request.param))


@pytest.fixture(scope="module")
def sleep():
    return mme.lmer("Reaction ~ Days + (Days | Subject)", load_data("sleepstudy"))


def _points(ax, line: int = 0) -> np.ndarray:
    return ax.lines[line].get_xydata()


def test_caterpillar(result):
    ax = mme.plot.caterpillar(result, effect="x")
    table = result.ranef_table("g")
    table = table[table["effect"] == "x"].sort_values("blup", kind="stable")
    x, y = _points(ax).T
    np.testing.assert_allclose(x, table["blup"])
    np.testing.assert_array_equal(y, np.arange(len(table)))
    if len(table) == 5:
        assert [t.get_text() for t in ax.get_yticklabels()] == table["level"].astype(str).tolist()
        ends = np.array([path.vertices[:, 0] for path in ax.collections[0].get_paths()])
        np.testing.assert_allclose(ends, table[["lower", "upper"]])
        assert ax.get_ylabel() == "g"
    else:
        assert len(ax.get_yticks()) == 0 and ax.get_ylabel().startswith("20,000 levels of g")
        low, high = ax.collections[0].get_datalim(ax.transData).intervalx
        np.testing.assert_allclose((low, high), (table["lower"].min(), table["upper"].max()))
    plain = mme.plot.caterpillar(result, "g", intervals=False, order="level")
    assert plain.collections == [] or len(plain.collections) == 0
    assert _points(plain)[0, 1] == len(table) - 1


def test_coefficients(result):
    ax = mme.plot.coefficients(result, ddf="normal")
    table = result.coef_table("normal").drop("(Intercept)")
    np.testing.assert_allclose(_points(ax)[:, 0], table["estimate"])
    assert [t.get_text() for t in ax.get_yticklabels()] == table.index.tolist()
    assert len(_points(mme.plot.coefficients(result, intercept=True, ddf="normal"))) == len(table) + 1


def test_residuals(result):
    for kind, fixed in ((None, False), ("marginal", True), ("raw", False)):
        ax = mme.plot.residuals(result, kind)
        if result.nobs < 100:
            x = result.fitted_fixed if fixed else result.fittedvalues
            y = result.residuals(kind or "standardized")
            np.testing.assert_allclose(_points(ax), np.column_stack([x, y]))
        else:
            assert type(ax.collections[0]).__name__ == "PolyCollection"
            assert ax.collections[0].get_array().size < 60 * 60 * 2
    spread = mme.plot.scale_location(result)
    if result.nobs < 100:
        np.testing.assert_allclose(_points(spread)[:, 1], np.sqrt(result.residuals("standardized").abs()))
    # the line of means has that of its points
    y = result.residuals("standardized")
    means = _points(mme.plot.residuals(result), 1 if result.nobs < 100 else 0)[:, 1]
    assert y.min() < means.min() <= y.mean() <= means.max() < y.max()


def test_qq(result):
    ax = mme.plot.qq(result)
    values = np.sort(result.residuals("whitened"))
    x, y = _points(ax, 1).T
    assert x.size == min(values.size, 2_000)
    np.testing.assert_allclose(y[[0, -1]], values[[0, -1]])
    np.testing.assert_allclose(x[0], stats.norm.ppf(0.5 / values.size))
    vertices = ax.collections[0].get_paths()[0].vertices
    # the envelope holds the first of n normal values with probability 0.95
    least = vertices[np.isclose(vertices[:, 0], x[0]), 1]
    exact = stats.norm.ppf(stats.beta.ppf([0.025, 0.975], 1, values.size))
    np.testing.assert_allclose([least.min(), least.max()], exact, atol=0.25)
    effects = mme.plot.qq(result, term="g", effect="x")
    table = result.ranef_table("g")
    table = table[table["effect"] == "x"]
    variance = result.varcorr.set_index("var1")["vcov"]["x"]
    expected = np.sort(table["blup"] / np.sqrt(variance - table["pev"]))
    np.testing.assert_allclose(_points(effects, 1)[[0, -1], 1], expected[[0, -1]], rtol=1e-6)
    with pytest.raises(OptionError, match="give one of them"):
        mme.plot.qq(result, kind="raw", term="g")
    with pytest.raises(OptionError, match="alpha=2"):
        mme.plot.qq(result, alpha=2)


def test_pit(result):
    ax = mme.plot.pit(result, seed=3)
    heights = np.array([patch.get_height() for patch in ax.patches if patch.get_width() < 0.5])
    np.testing.assert_allclose(heights.mean(), 1.0)
    tests = result.pit_residuals(seed=3, rotate=True).tests
    assert f"uniformity {tests['p']['uniformity']:.2g}" in ax.get_title()
    again = mme.plot.pit(result, n=40, seed=3, random_effects="conditional")
    assert again.get_title() != ax.get_title()


def test_influence(result):
    frame = result.influence("g").frame
    ax = mme.plot.influence(result, "g", label=3)
    drawn = max(path.vertices[:, 1].max() for path in ax.collections[0].get_paths())
    np.testing.assert_allclose(drawn, frame["cooks_fixed"].max())
    if len(frame) == 5:
        assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2", "3", "4"]
    else:
        assert len(ax.collections[0].get_paths()) == 1_000
        named = [text.get_text() for text in ax.texts]
        assert named[0] == str(frame["cooks_fixed"].idxmax()) and len(named) <= 3
    given = mme.plot.influence(result.influence("g"), column="covratio")
    assert given.get_ylabel() == "covratio"
    rows = result.plot.influence()
    assert rows.get_xlabel() == f"row ({result.nobs:,} rows)"
    with pytest.raises(OptionError, match="column='size'"):
        mme.plot.influence(result, "g", column="size")


def test_means(result):
    means = result.emmeans("a", by="t", ddf="normal")
    for draw in (mme.plot.emmeans, mme.plot.interaction):
        ax = draw(result, "a", "t", ddf="normal")
        for line, level in zip(ax.lines, ("no", "yes"), strict=True):
            own = means.frame.loc[(means.labels["t"] == level).to_numpy(), "estimate"]
            np.testing.assert_allclose(line.get_ydata(), own)
        assert [t.get_text() for t in ax.get_legend().get_texts()] == ["no", "yes"]
        assert [t.get_text() for t in ax.get_xticklabels()] == ["p", "q", "r"]
    assert mme.plot.emmeans(result, "a", ddf="normal").get_legend() is None


def test_the_mean_of_a_covariate_in_a_legend():
    rng = np.random.default_rng(3)
    data = pd.DataFrame(
        {"f": list("abc") * 40, "x": np.linspace(0.0, 1.0, 120) ** 2, "g": np.arange(120) % 8}
    )
    data["y"] = rng.normal(size=120) + rng.normal(size=8)[data["g"]]
    ax = mme.plot.interaction(mme.lmer("y ~ f + x + (1 | g)", data), "f", "x")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"{data['x'].mean():.5g}"]


def test_many_means():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"c": rng.integers(0, 90, 2_000), "g": rng.integers(0, 20, 2_000)})
    data["y"] = np.sin(data.c / 9.0) + rng.normal(size=20)[data.g] + rng.normal(size=2_000)
    many = mme.lmer("y ~ C(c) + (1 | g)", data)
    ax = mme.plot.emmeans(many, "c", ddf="normal")
    assert ax.get_xlabel() == "c (90 levels)" and len(ax.get_xticks()) < 15
    coefficients = mme.plot.coefficients(many, ddf="normal")
    assert coefficients.get_ylabel() == "89 coefficients" and len(coefficients.get_yticks()) == 0


def test_partial(result):
    ax = mme.plot.partial(result, "x", by="t", points=7, ddf="normal")
    x, y = _points(ax).T
    np.testing.assert_allclose(x, np.linspace(result.fitted.design.X[:, 1].min(), x[-1], 7))
    means = result.emmeans("x", by="t", at={"x": x.tolist()}, ddf="normal").frame
    np.testing.assert_allclose(y, means["estimate"][:7])
    assert len(ax.collections) == 2 and len(ax.lines) == 3
    factor = mme.plot.partial(result, "a", ddf="normal")
    assert [t.get_text() for t in factor.get_xticklabels()] == ["p", "q", "r"]
    with pytest.raises(OptionError, match=r"variable='z' is not in the fixed part. Known: x, a, t"):
        mme.plot.partial(result, "z")
    with pytest.raises(OptionError, match="points=1"):
        mme.plot.partial(result, "x", points=1)
    with pytest.raises(OptionError, match=r"specs=\['a'\] must be the name of one variable"):
        mme.plot.emmeans(result, ["a"])


def test_profile(sleep):
    found = sleep.profile(["Days", "sd_Days|Subject"])
    axes = mme.plot.profile(found)
    assert [ax.get_xlabel() for ax in axes] == ["Days", "sd_Days|Subject"]
    own = found.frame[found.frame["parameter"] == "Days"]
    curve, points = axes[0].lines[:2]
    np.testing.assert_allclose(points.get_xydata(), own[["value", "zeta"]])
    np.testing.assert_allclose(
        np.interp(0.0, curve.get_ydata(), curve.get_xdata()), found.estimates["Days"], rtol=1e-3
    )
    levels = np.array([path.vertices for one in axes[0].collections for path in one.get_paths()])
    np.testing.assert_allclose(np.sort(levels[:, :, 0].ravel())[[0, -1]], found.conf_int(0.01).loc["Days"])
    absolute = sleep.plot.profile("sigma", absolute=True)
    assert absolute.shape == (1,) and absolute[0].lines[0].get_ydata().min() >= 0.0
    one = plt.subplots()[1]
    assert mme.plot.profile(sleep, "sigma", ax=one)[0] is one
    with pytest.raises(OptionError, match="ax has 1 axes, and there are 2 parameters"):
        mme.plot.profile(found, ax=one)


def test_check(result):
    axes = result.plot()
    assert axes.shape == (2, 3)
    titles = [ax.get_title().partition("\n")[0] for ax in axes.ravel()]
    assert titles[0] == "Residuals" and titles[-1] == "Calibration"
    assert all(ax.axison for ax in axes.ravel())
    again = mme.plot.check(result, "g", ax=axes)
    assert again[0, 0] is axes[0, 0]


def test_given_axes(sleep):
    axes = plt.subplots(3, 4)[1].ravel()
    calls = [
        sleep.plot.caterpillar, sleep.plot.coefficients, sleep.plot.residuals, sleep.plot.scale_location,
        sleep.plot.qq, sleep.plot.pit, sleep.plot.influence, lambda ax: sleep.plot.partial("Days", ax=ax),
    ]  # fmt: skip
    for ax, call in zip(axes, calls, strict=False):
        assert call(ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    for wrong in ("axes", plt.figure()):
        with pytest.raises(OptionError, match="ax must be an Axes"):
            sleep.plot.caterpillar(ax=wrong)
    with pytest.raises(OptionError, match="the page has 6"):
        sleep.plot.check(ax=axes)


def test_accessor(sleep):
    names = [name for name in mme.plot.__all__ if name != "Pictures"]
    for name in names:
        method, function = getattr(mme.plot.Pictures, name), getattr(mme.plot, name)
        assert inspect.getdoc(method) == inspect.getdoc(function)
        assert name in repr(sleep.plot)
    other = mme.mixedlm("Reaction ~ Days", load_data("sleepstudy"), groups="Subject").fit()
    assert other.plot.caterpillar().get_ylabel() == other.model.group_name
    assert other.plot().shape == (2, 3)
    components = mme.mixedlm(
        "Reaction ~ Days", load_data("sleepstudy"), groups="Subject", vc_formula={"v": "0 + C(Days > 6)"}
    ).fit()
    assert len(_points(components.plot.caterpillar("v"))) == 36


def test_unknown_names(sleep):
    for call in (sleep.plot.caterpillar, lambda **k: sleep.plot.qq(**k), sleep.plot.check):
        with pytest.raises(OptionError, match=r"term='Subjct' is not there. Known: Subject"):
            call(term="Subjct")
    with pytest.raises(
        OptionError, match=r"effect='Day' is no effect of Subject. Known: \(Intercept\), Days"
    ):
        sleep.plot.caterpillar(effect="Day")
    with pytest.raises(OptionError, match="order='name'"):
        sleep.plot.caterpillar(order="name")
    with pytest.raises(OptionError, match="kind='deviance'"):
        sleep.plot.residuals("deviance")


def test_iterative_fits():
    data = load_data("sleepstudy")
    result = mme.lmer("Reaction ~ Days + (1 | Subject)", data, solver="iterative", seed=1)
    assert result.plot.residuals().get_ylabel() == "pearson residuals"
    assert result.plot.caterpillar(intervals=False).get_ylabel() == "Subject"
    axes = result.plot.check()
    assert "needs a factorization" in axes[1, 1].texts[0].get_text().replace("\n", " ")
    with pytest.raises(InferenceError, match="needs a factorization"):
        result.plot.influence()


def test_removed_data():
    result = mme.mixedlm("Reaction ~ Days", load_data("sleepstudy"), groups="Subject").fit()
    result.remove_data()
    for call in (result.plot.residuals, result.plot.qq, result.plot.influence, result.plot.pit):
        with pytest.raises(InferenceError, match="the data were removed"):
            call()


def test_zero_variances():
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 6), "y": rng.normal(size=60)})
    data["y"] -= data.groupby("g")["y"].transform("mean")
    result = mme.lmer("y ~ 1 + (1 | g)", data)
    with pytest.raises(OptionError, match="a variance of zero has no predictions"):
        result.plot.qq(term="g")
    assert "a variance of zero" in result.plot()[1, 0].texts[0].get_text().replace("\n", " ")


def test_matplotlib_comes_when_asked_for(sleep, monkeypatch):
    code = "import sys, mme; mme.plot.caterpillar; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'mme\[plot\]'"):
        sleep.plot.caterpillar()
