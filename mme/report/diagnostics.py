"""Residuals, leverages, influence, scaled residuals and collinearity, for results of both doors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..exceptions import DataError, InferenceError, OptionError
from ..fit.fitted import Fitted
from ..inference.collinearity import inflation
from ..inference.residuals import residuals
from ..inference.rows import fit_rows
from ..inference.scaled import Scaled, check_draws, scaled_residuals
from ..plot.pictures import Pictures
from .influence import Influence, influence_of, row_index
from .reported import Reported

__all__ = ["Diagnostics", "PITResiduals"]


class Diagnostics(Reported):
    """What results of both doors say of how the model fits its rows; no refits."""

    def residuals(self, kind: str = "raw") -> pd.Series:
        """Residuals.

        Parameters
        ----------
        kind : {"raw", "pearson", "standardized", "marginal", "marginal-standardized", "whitened"}
            With b and u the estimates, w prior weights (ones without) and h the leverages of `hatvalues`:

            - "raw": e = y - X b - Z u, conditional; `resid`.
            - "pearson": sqrt(w) e / sigma; lme4's with ``scaled=TRUE``, nlme's "pearson" and, of an lme with
              independent residuals, its "normalized".
            - "standardized": sqrt(w) e / (sigma sqrt(1 - h)), divided by their own standard deviations given
              the variances; SAS's conditional studentized ones.
            - "marginal": y - X b.
            - "marginal-standardized": y - X b over its own standard deviation, the root of the diagonal of
              sigma^2 (V - X (X'V^-1 X)^-1 X').
            - "whitened": V^-1/2 (y - X b) / sigma, uncorrelated with variance one if the model holds (but for
              the estimation of b): nlme's "normalized" of a gls with this covariance.  The root is the
              symmetric one of W^1/2 V W^1/2, so that they do not depend on the order of the rows, and stay as
              close to the marginal ones as uncorrelated ones can.

        Returns
        -------
        pandas.Series, shape (n,)
            On the data's index; NaN for rows that the fit goes through whatever their response is.

        Raises
        ------
        OptionError
            An unknown kind.
        InferenceError
            After an iterative fit, for "standardized", "marginal-standardized" and "whitened"; where the data
            were removed.

        Notes
        -----
        "whitened" takes some 20 factorizations, the others at most one.

        References
        ----------
        Nobre & Singer (2007), Biometrical Journal 49, 863-875.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.residuals("standardized").abs().nlargest(2).round(2)
        56    5.53
        59    4.57
        Name: standardized, dtype: float64
        """
        fitted = self.fitted
        return pd.Series(residuals(fitted, kind), index=row_index(fitted), name=kind)

    def hatvalues(self, kind: str = "conditional") -> pd.Series:
        """Leverages.

        Parameters
        ----------
        kind : {"conditional", "marginal"}
            "conditional": the diagonal of the matrix that takes y to X b + Z u, theta held, as lme4's
            ``hatvalues``; "marginal": of X (X'V^-1 X)^-1 X'V^-1, which takes y to X b.

        Returns
        -------
        pandas.Series, shape (n,)

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.hatvalues().head(2).round(3)
        0    0.229
        1    0.170
        Name: hat, dtype: float64
        """
        if kind not in ("conditional", "marginal"):
            raise OptionError(f"kind={kind!r} is not known. Known: conditional, marginal.")
        rows = fit_rows(self.fitted, "hatvalues")
        values = rows.leverage if kind == "conditional" else rows.leverage_fixed
        return pd.Series(values, index=row_index(self.fitted), name="hat")

    def cooks_distance(self, kind: str = "conditional") -> pd.Series:
        """Cook's distances of the rows.

        Parameters
        ----------
        kind : {"conditional", "fixed"}
            "conditional": w e^2 h / (p sigma^2 (1 - h)^2), of conditional residuals and leverages, as lme4's
            ``cooks.distance``.  "fixed": (b - b_i)'Cov(b)^-1 (b - b_i) / p, b_i the fixed effects without the
            row, theta held, as R's HLMdiag.

        Returns
        -------
        pandas.Series, shape (n,)

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.cooks_distance().nlargest(2).round(2)
        59    4.33
        56    2.12
        Name: cooks, dtype: float64
        """
        if kind not in ("conditional", "fixed"):
            raise OptionError(f"kind={kind!r} is not known. Known: conditional, fixed.")
        column = "cooks" if kind == "conditional" else "cooks_fixed"
        return self.influence().frame[column].rename("cooks")

    def influence(self, by: Any = None) -> Influence:
        """What the fit would be without a row, or without a whole level of a factor.

        Parameters
        ----------
        by : str, or array_like of shape (n,), optional
            Leave out all rows of a level at a time: of a grouping factor or a factor of the formula, by name,
            or of a label per row.  By default single rows.

        Returns
        -------
        Influence
            ``.frame`` (Cook's distance, MDFFITS, COVRATIO, leverages), ``.dfbeta``, ``.dfbetas``,
            ``.fe_params``; ``.theta`` and ``.varcorr`` after one Newton step; ``.top()``.

        Raises
        ------
        OptionError
            No such factor, or labels of another length.
        InferenceError
            After an iterative fit or a penalized one; where the data were removed.

        Notes
        -----
        Theta is held at its estimate, and so everything but ``.theta`` and ``.varcorr`` is exact.  Nothing of
        size n x n is formed.

        References
        ----------
        Christensen, Pearson & Johnson (1992), Technometrics 34, 38-45.  Cook & Weisberg (1982), Residuals and
        Influence in Regression.

        Examples
        --------
        >>> import pandas as pd, mme
        >>> sleep = pd.read_csv("mme/data/sleepstudy.csv")
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.influence("Subject").top(2)[["n", "cooks_fixed"]].round(3)
                  n  cooks_fixed
        Subject
        309      10        0.149
        335      10        0.129
        """
        return influence_of(self.fitted, by)

    def get_influence(self) -> Influence:
        """The influence of rows, by statsmodels' name: see `influence`.

        Returns
        -------
        Influence
            What `influence()` returns.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> result.get_influence().frame.shape
        (180, 9)
        """
        return self.influence()

    def pit_residuals(
        self, n: int = 250, seed: int | None = None, random_effects: str = "new", rotate: bool = False
    ) -> PITResiduals:
        """Scaled residuals: the share of simulated responses below the observed one, as R's DHARMa.

        Parameters
        ----------
        n : int
            Simulated responses.
        seed : int, optional
            Of numpy's generator.
        random_effects : {"new", "conditional"}
            Draw random effects (DHARMa's default) or hold them at their predictions.  Predictions follow the
            data, so that conditional ones are a little less spread than the model says.
        rotate : bool
            Whiten rows by the model's covariance first.  Without it rows of a level are correlated and the
            p-value of uniformity is too small; with it the transforms are exact and need no simulation.

        Returns
        -------
        PITResiduals
            ``.values``, uniform if the model holds; ``.tests``.

        References
        ----------
        Dunn & Smyth (1996), JCGS 5, 236-244.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> pit = result.pit_residuals(100, seed=1)
        >>> pit.tests.index.tolist()
        ['uniformity', 'dispersion', 'outliers']
        """
        draws = check_draws(n, random_effects)
        fitted = self.fitted
        rng = np.random.default_rng(seed)
        scaled = scaled_residuals(fitted, draws, rng, random_effects, bool(rotate))
        return PITResiduals(scaled, row_index(fitted), draws, rotate or random_effects == "conditional")

    @property
    def plot(self) -> Pictures:
        """Pictures: ``plot()`` or ``plot.check()``, ``plot.caterpillar()`` and others, as in `mme.plot`.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> result = mme.lmer("Reaction ~ Days + (Days | Subject)", sleep)
        >>> axes = result.plot.caterpillar(effect="Days")
        """
        return Pictures(self)  # type: ignore[arg-type]  # with what the other classes give results

    def vif(self) -> pd.DataFrame:
        """Generalized variance inflation factors of the fixed part's terms, as R's ``car::vif``.

        Returns
        -------
        pandas.DataFrame
            A row per term (per column, of a model of arrays): ``gvif``, ``df`` and ``gvif_scaled``,
            gvif^(1 / (2 df)), which compares with the square root of a single column's VIF.

        Raises
        ------
        InferenceError
            A model with fewer than two terms beside the intercept.

        References
        ----------
        Fox & Monette (1992), JASA 87, 178-183.

        Examples
        --------
        >>> import mme
        >>> import pandas as pd
        >>> oats = pd.read_csv(mme.data_path("oats.csv")).rename(columns={"yield": "crop"})
        >>> result = mme.lmer("crop ~ nitro + Variety + (1 | Block)", oats)
        >>> result.vif()
                 gvif  df  gvif_scaled
        nitro     1.0   1          1.0
        Variety   1.0   2          1.0
        """
        fitted = self.fitted
        names, terms, constant = _terms(fitted)
        values = inflation(fitted, terms, constant)
        df = np.array([int(np.sum(~np.isnan(fitted.beta[term]))) for term in terms])
        with np.errstate(divide="ignore"):
            scaled = values ** (1.0 / (2.0 * df))
        index = pd.Index(names, dtype=object)
        frame = pd.DataFrame({"gvif": values, "df": df, "gvif_scaled": scaled}, index=index)
        notes = () if constant.size else ("There is no intercept: inflation is about zero, not about means.",)
        frame.attrs["notes"] = notes
        return frame


class PITResiduals:
    """Scaled residuals with their tests; `results.pit_residuals()` makes it.

    Attributes
    ----------
    values : pandas.Series, shape (n,)
        Between 0 and 1.
    tests : pandas.DataFrame
        Rows ``uniformity`` (Kolmogorov and Smirnov's distance), ``dispersion`` (the variance of the response
        about its centre over its mean in the simulations) and ``outliers`` (the share of responses outside of
        all simulated ones, tested against 2 / (n + 1)); columns ``statistic``, ``p``.
    n : int
        Simulations.
    notes : tuple of str
    """

    def __init__(self, scaled: Scaled, index: pd.Index, n: int, independent: bool) -> None:
        self.values = pd.Series(scaled.values, index=index, name="pit")
        rows = {name: getattr(scaled, name) for name in ("uniformity", "dispersion", "outliers")}
        self.tests = pd.DataFrame.from_dict(rows, orient="index", columns=["statistic", "p"])
        self.n = n
        self.notes: tuple[str, ...] = ()
        if not independent:
            self.notes = (
                "Rows of a level are correlated, so that uniformity and outliers look worse than they are: "
                "rotate=True takes that out.",
            )

    def __repr__(self) -> str:
        return "\n".join([f"Scaled residuals, {self.n} simulations:", str(self.tests), *self.notes])


def _terms(fitted: Fitted) -> tuple[list[str], list[np.ndarray], np.ndarray]:
    """Names and coefficients of the terms, and those of the intercept."""
    try:
        found = () if fitted.coding is None else fitted.coding().terms
    except DataError:  # arrays, no formula
        found = ()
    number = np.arange(fitted.beta.size)
    if found:
        shown = [term for term in found if term.factors]
        constant = np.concatenate([number[:0], *(number[t.columns] for t in found if not t.factors)])
        return [t.name for t in shown], [number[t.columns] for t in shown], constant
    if fitted.design is None:
        raise InferenceError("vif needs the design, and the data were removed.")
    X = fitted.design.X
    flat = np.ptp(X, axis=0) == 0.0
    shown_columns = number[~flat]
    return (
        [fitted.labels.fixed[j] for j in shown_columns],
        [np.array([j]) for j in shown_columns],
        number[flat],
    )
