"""Parameters of a model by name: fixed effects, standard deviations, correlations, residual deviation."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..exceptions import InferenceError, OptionError
from ..fit.fitted import Fitted, Labels
from ..fit.residual import refuse_structure

__all__ = ["Parameter", "Values", "check_maximum", "check_option", "choose", "estimates", "parameters_of"]

_GROUPS = {"beta_": ("fixed",), "theta_": ("sd", "cor", "sigma")}


@dataclass(frozen=True)
class Parameter:
    """One parameter.

    Attributes
    ----------
    name : str
        A coefficient's own, else lme4's: ``sd_Days|Subject``, ``cor_Days.(Intercept)|Subject``, ``sigma``;
        of a structure ``cor_cs|Block``, ``sd_ar1|Subject``, ``cor_toep.2|Subject``.
    kind : {"fixed", "sd", "cor", "sigma"}
    term : int
        Of the design; -1 for fixed effects and sigma.
    a, b : int
        Effects of the term, a the later one of a correlation; the column of a fixed effect.
    """

    name: str
    kind: str
    term: int = -1
    a: int = 0
    b: int = 0


def parameters_of(labels: Labels) -> tuple[Parameter, ...]:
    """All parameters: fixed effects, then every term's standard deviations and correlations, then sigma.

    A name that two parameters share (two components of one name, a coefficient called ``sigma``) gets ``.1``,
    ``.2`` behind it, the first none.
    """
    raw = [Parameter(name, "fixed", a=j) for j, name in enumerate(labels.fixed)]
    for t, term in enumerate(labels.terms):
        names = term.effects
        for a, b in term.structure.shown(len(names)):
            label = term.structure.parameter_label(names, a, b)
            if a == b:
                raw.append(Parameter(f"sd_{label}|{term.group}", "sd", t, a, a))
            else:
                raw.append(Parameter(f"cor_{label}|{term.group}", "cor", t, a, b))
    raw.append(Parameter("sigma", "sigma"))
    seen: dict[str, int] = {}
    out = []
    for p in raw:
        count = seen.get(p.name, 0)
        seen[p.name] = count + 1
        out.append(Parameter(f"{p.name}.{count}", p.kind, p.term, p.a, p.b) if count else p)
    return tuple(out)


def choose(
    labels: Labels, parm: object, default: Sequence[str] = ("fixed", "sd", "cor", "sigma")
) -> list[Parameter]:
    """Parameters by name.

    Parameters
    ----------
    labels : Labels
    parm : str, sequence of str, or None
        Names; ``"beta_"`` stands for all fixed effects and ``"theta_"`` for all others, as in lme4.
    default : sequence of str
        Kinds that None stands for.

    Raises
    ------
    OptionError
        A name that there is not.
    """
    known = parameters_of(labels)
    if parm is None:
        return [p for p in known if p.kind in default]
    by_name = {p.name: p for p in known}
    names = [parm] if isinstance(parm, str) else parm
    out: list[Parameter] = []
    if not isinstance(names, Sequence | np.ndarray) and not hasattr(names, "__iter__"):
        raise OptionError(f"parm={parm!r} must be a name, or several. Known: {', '.join(by_name)}.")
    for name in names:
        if isinstance(name, str) and name in by_name:
            out.append(by_name[name])
        elif isinstance(name, str) and name in _GROUPS:
            out += [p for p in known if p.kind in _GROUPS[name]]
        else:
            close = difflib.get_close_matches(str(name), by_name, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise OptionError(
                f"parm: there is no parameter {name!r}.{hint} Known: {', '.join(by_name)}; 'beta_' and "
                "'theta_' stand for all fixed effects and for all others."
            )
    if not out:
        raise OptionError(f"parm={parm!r} names no parameter. Known: {', '.join(by_name)}.")
    return list(dict.fromkeys(out))


class Values(Mapping[str, float]):
    """Values of all parameters: what a function of them is given (`delta`, `bootstrap`).

    ``p["Days"]``, ``p["sd_Days|Subject"]``, ``p["cor_Days.(Intercept)|Subject"]`` and ``p["sigma"]`` are
    numbers; iterating gives the names.

    Attributes
    ----------
    fixed : ndarray, shape (p,)
        Fixed effects; NaN where a dependent column was dropped.
    covariances : tuple of ndarray, shapes (k_t, k_t)
        Covariance of the effects of every random term.
    sigma2 : float
        Residual variance.
    """

    def __init__(
        self, labels: Labels, fixed: np.ndarray, covariances: tuple[np.ndarray, ...], sigma2: float
    ) -> None:
        self._labels = labels
        self.fixed, self.covariances, self.sigma2 = fixed, covariances, sigma2

    @cached_property
    def _known(self) -> dict[str, Parameter]:
        return {p.name: p for p in parameters_of(self._labels)}

    @property
    def sigma(self) -> float:
        """Residual standard deviation."""
        return float(np.sqrt(max(self.sigma2, 0.0)))

    @property
    def cov(self) -> dict[str, np.ndarray]:
        """`covariances` by the name of the term's grouping factor."""
        return {t.group: T for t, T in zip(self._labels.terms, self.covariances, strict=True)}

    def __getitem__(self, name: str) -> float:
        p = self._known.get(name)
        if p is None:
            close = difflib.get_close_matches(str(name), self._known, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise OptionError(f"there is no parameter {name!r}.{hint} Known: {', '.join(self._known)}.")
        return self.value(p)

    def value(self, p: Parameter) -> float:
        """A parameter's value; a correlation with a zero variance is NaN."""
        if p.kind == "fixed":
            return float(self.fixed[p.a])
        if p.kind == "sigma":
            return self.sigma
        T = self.covariances[p.term]
        if p.kind == "sd":
            return float(np.sqrt(max(T[p.a, p.a], 0.0)))
        product = T[p.a, p.a] * T[p.b, p.b]
        return float(T[p.a, p.b] / np.sqrt(product)) if product > 0.0 else np.nan

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {self.value(p):.6g}" for name, p in self._known.items())


def check_option(name: str, value: object, known: Sequence[str]) -> str:
    """One of several words.

    Raises
    ------
    OptionError
        Another one.
    """
    text = value.lower() if isinstance(value, str) else ""
    if text in known:
        return text
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise OptionError(f"{name}={value!r} is not known.{hint} Known: {', '.join(known)}.")


def estimates(fitted: Fitted) -> Values:
    """The estimates of a fit."""
    T = tuple(fitted.sigma2 * (lam @ lam.T) for lam in fitted.lam)
    return Values(fitted.labels, fitted.beta, T, fitted.sigma2)


def check_maximum(fitted: Fitted, what: str, structured: bool = False) -> None:
    """Refuse estimates that are no maximum of a likelihood; residuals with a structure, unless `structured`.

    Raises
    ------
    InferenceError
    """
    if not structured:
        refuse_structure(fitted.residual, what)
    why = fitted.restriction
    if not np.isfinite(fitted.loglik) or (fitted.record is not None and fitted.record.perfect):
        why = "a response that the model explains exactly, whose likelihood has no maximum"
    if why:
        raise InferenceError(f"{what} needs the maximum of the likelihood, and this fit has {why}.")
