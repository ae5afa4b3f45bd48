"""Degrees of freedom and Kenward-Roger's covariance of fits with residual structures, against dense formulas.

The dense side is in natural parameters: G = sigma2 D, sigma2, and variances and covariances of the residuals
where V is linear in them; V's derivatives are differences of V itself.
"""

from __future__ import annotations

import numpy as np
import pytest
from dense_residuals import dense_r
from oracle import dense_z
from support import load_data, mark_slow

import mme
from mme.exceptions import InferenceError

CASES = {
    "us": ("score ~ baseline + arm * visit", "us(v3 | patient)"),
    "ar1": ("score ~ baseline + arm", "ar1(visit | patient)"),
    "varident": ("score ~ baseline + arm + visit + (1 | patient)", "varident(arm)"),
    "ar1h": ("score ~ baseline + visit", "ar1h(v3 | patient)"),
    "csh": ("score ~ baseline + visit", "csh(v3 | patient)"),
    "toep": ("score ~ baseline + visit", "toep(v3 | patient)"),
    "nested car1": ("score ~ baseline + visit + (1 | site)", "car1(time | patient)"),
    "crossed": (
        "score ~ baseline + visit + (1 | patient) + (1 | rater)",
        "varident(arm) * ar1(visit | patient)",
    ),
}


def data():
    out = load_data("trial")
    out = out[(out["visit"] <= 3) & (out["patient"] < "p26")]
    return out.assign(v3=lambda d: "v" + d["visit"].astype(str))


def fit(name, reml=True, **options):
    formula, structure = CASES[name]
    return mme.lmer(formula, data(), reml=reml, residual=structure, **options)


class Dense:
    """V in natural parameters, and what follows from it."""

    def __init__(self, result):
        self.design = result.model.model_design.design
        self.structure = result.model.model_design.residual
        self.reml = result.fit.reml
        self.entries = [
            (t, a, b) for t, term in enumerate(self.design.terms) for a, b in term.structure.entries(term.k)
        ]
        s, phi = result.fit.sigma2, result.fit.residual.phi
        G = [s * lam @ lam.T for lam in result.fit.lam]
        self.psi = np.r_[
            [G[t][a, b] for t, a, b in self.entries], np.where(self.structure.scaled, s * phi, phi), s
        ]
        self.Z = [dense_z(term, self.design.n) for term in self.design.terms]

    def V(self, psi):
        m, s = len(self.entries), psi[-1]
        own = psi[m:-1]
        out = s * dense_r(self.structure, np.where(self.structure.scaled, own / s, own))
        for value, (t, a, b) in zip(psi[:m], self.entries, strict=True):
            z = self.Z[t]
            part = z[:, :, a] @ z[:, :, b].T
            out = out + value * (part if a == b else part + part.T)
        return out

    def differences(self, function, psi):
        out = []
        for j in range(psi.size):
            h = 2e-3 * max(abs(psi[j]), 0.1)
            total = 0.0
            for w, k in ((8.0, 1), (-8.0, -1), (-1.0, 2), (1.0, -2)):
                moved = psi.copy()
                moved[j] += k * h
                total = total + w * np.asarray(function(moved))
            out.append(total / (12.0 * h))
        return np.array(out)

    def phi(self, psi):
        X = self.design.X
        return np.linalg.inv(X.T @ np.linalg.solve(self.V(psi), X))

    def gradient(self, psi):
        """Of -2 log-likelihood, fixed effects profiled out."""
        X, y = self.design.X, self.design.y
        Vi = np.linalg.inv(self.V(psi))
        A = Vi @ X
        P = Vi - A @ np.linalg.solve(X.T @ A, A.T)
        e = P @ y
        M = (P if self.reml else Vi) - np.outer(e, e)
        return np.array([np.sum(M * d) for d in self.slopes(psi)])

    def slopes(self, psi):
        return self.differences(self.V, psi)

    def satterthwaite(self, L):
        H = self.differences(self.gradient, self.psi)
        W = 2.0 * np.linalg.inv(0.5 * (H + H.T))
        g = self.differences(self.phi, self.psi)
        return self._df(L, W, g)

    @staticmethod
    def _df(L, W, g, size=None):
        out = []
        for row in L:
            slope = np.array([row @ d @ row for d in g])
            out.append((row @ size @ row if size is not None else np.nan, slope @ W @ slope))
        return out

    def kenward_roger(self):
        """Adjusted covariance, and covariance of the variances."""
        X, psi = self.design.X, self.psi
        V = self.V(psi)
        Vi = np.linalg.inv(V)
        A = Vi @ X
        Phi = np.linalg.inv(X.T @ A)
        P = Vi - A @ Phi @ A.T
        slopes = self.slopes(psi)
        info = 0.5 * np.array([[np.trace(P @ a @ P @ b) for b in slopes] for a in slopes])
        W = np.linalg.inv(info)
        second = self.differences(self.slopes, psi)
        total = np.zeros_like(Phi)
        for i, a in enumerate(slopes):
            for j, b in enumerate(slopes):
                Q = A.T @ a @ Vi @ b @ A
                Pi, Pj = A.T @ a @ A, A.T @ b @ A
                R = A.T @ second[i, j] @ A
                total += W[i, j] * (Q - Pi @ Phi @ Pj - 0.25 * R)
        return Phi + 2.0 * Phi @ total @ Phi, Phi, W, self.differences(self.phi, psi)


@pytest.mark.parametrize("name", mark_slow(CASES, lambda name: name not in ("ar1", "varident")))
@pytest.mark.parametrize("reml", [True, False], ids=["reml", "ml"])
def test_satterthwaite(name, reml):
    result = fit(name, reml)
    assert result.converged
    dense = Dense(result)
    table = result.coef_table()
    Phi = dense.phi(dense.psi)
    np.testing.assert_allclose(table["se"] ** 2, np.diag(Phi), rtol=1e-7)
    parts = dense.satterthwaite(np.eye(len(Phi)))
    want = [2.0 * v**2 / g for v, (_, g) in zip(np.diag(Phi), parts, strict=True)]
    np.testing.assert_allclose(table["df"], want, rtol=2e-5)


@pytest.mark.parametrize("name", mark_slow(CASES, lambda name: name not in ("ar1", "varident")))
def test_kenward_roger(name):
    result = fit(name)
    adjusted, Phi, W, g = Dense(result).kenward_roger()
    table = result.coef_table(ddf="kenward-roger")
    np.testing.assert_allclose(table["se"] ** 2, np.diag(adjusted), rtol=2e-5)
    df = [2.0 * Phi[j, j] ** 2 / (g[:, j, j] @ W @ g[:, j, j]) for j in range(len(Phi))]
    np.testing.assert_allclose(table["df"], df, rtol=2e-5)


@pytest.mark.parametrize("name", ["us", "ar1", "varident", "toep"])
def test_errors_of_the_residuals(name):
    """Standard errors of residual_table by the delta rule from the dense Hessian."""
    result = fit(name)
    dense = Dense(result)
    H = dense.differences(dense.gradient, dense.psi)
    C = 2.0 * np.linalg.inv(0.5 * (H + H.T))
    table = result.residual_table()
    s = result.scale
    m = len(dense.entries)
    if name == "ar1":
        assert table.loc["rho", "se"] == pytest.approx(np.sqrt(C[m, m]), rel=1e-4)
        assert table.loc["sd", "se"] == pytest.approx(np.sqrt(C[-1, -1] / (4.0 * s)), rel=1e-4)
    elif name == "varident":
        variances = np.r_[s, dense.psi[m:-1]]
        own = np.r_[C[-1, -1], np.diag(C)[m:-1]]
        np.testing.assert_allclose(table["se"], np.sqrt(own / (4.0 * variances)), rtol=1e-4)
        np.testing.assert_allclose(table["lower"] * table["upper"], table["estimate"] ** 2)
    elif name == "toep":
        # rho = c / s
        J = np.zeros((2, len(dense.psi)))
        J[[0, 1], [m, m + 1]] = 1.0 / s
        J[:, -1] = -dense.psi[m : m + 2] / s**2
        np.testing.assert_allclose(table["se"].iloc[1:], np.sqrt(np.diag(J @ C @ J.T)), rtol=1e-4)
    else:
        S = result.residual_covariance().to_numpy()
        r = S[0, 1] / np.sqrt(S[0, 0] * S[1, 1])
        at = np.array([m, m + 1, len(dense.psi) - 1])  # cov 12, var 2, var 1
        g = np.array([r / S[0, 1], -0.5 * r / S[1, 1], -0.5 * r / S[0, 0]])
        assert table.loc["cor v1,v2", "se"] == pytest.approx(np.sqrt(g @ C[np.ix_(at, at)] @ g), rel=1e-4)


@pytest.mark.slow
def test_errors_of_the_random_effects():
    result = fit("crossed")
    dense = Dense(result)
    H = dense.differences(dense.gradient, dense.psi)
    C = 2.0 * np.linalg.inv(0.5 * (H + H.T))
    np.testing.assert_allclose(result.bse_re, np.sqrt(np.r_[C[0, 0], C[1, 1], C[-1, -1]]), rtol=1e-4)


def test_balanced_unstructured_has_exact_degrees_of_freedom():
    """Complete data and one mean a visit and sex: Hotelling's, n - 2 for every comparison of the groups."""
    result = mme.lmer("distance ~ C(age)*Sex", load_data("Orthodont"), residual="us(age | Subject)")
    np.testing.assert_allclose(result.coef_table()["df"].iloc[[0, 4]], 25.0, rtol=1e-5)


def test_tests_of_terms_agree_with_rows():
    result = fit("us")
    anova = result.anova()
    joint = result.coef_table()
    slope = "baseline"
    assert anova.loc[slope, "F value"] == pytest.approx(joint.loc[slope, "t"] ** 2, rel=1e-6)
    assert anova.loc[slope, "DenDF"] == pytest.approx(joint.loc[slope, "df"], rel=1e-5)


def test_kenward_roger_needs_reml():
    with pytest.raises(InferenceError, match="REML"):
        fit("ar1", reml=False).coef_table(ddf="kenward-roger")
