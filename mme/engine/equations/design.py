"""The design of a mixed model as plain arrays, validated once: what the formula layer hands to the engine.

y = X b + sum_t Z_t u_t + e,  e ~ N(0, sigma2 W^-1).  A random term is either *grouped* (integer codes of a
grouping factor and k columns evaluated at the rows; Z_t has k non-zeros per row) or *general* (an arbitrary
sparse Z_t whose columns share one variance).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...exceptions import DataError, DesignError, NotEnoughDataError
from ..covariance.structure import Pattern, Structure, structure_of
from ..runtime.finite import count_non_finite
from .relation import Relation

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["Design", "RandomTerm", "check_effects", "check_levels"]

_LARGEST = 1e35  # the average information has (x y)**4
_SMALLEST = 1e-150  # of the largest value of a column: squares underflow


@dataclass(frozen=True, eq=False)
class RandomTerm:
    """One random-effects term.

    Parameters
    ----------
    name : str
        Used in messages and in the fit record, for example ``"Subject"``.
    codes : ndarray of int, shape (n,), or None
        Level of each row, 0 <= code < n_levels, every level present unless they are related.  None for a
        general term.
    n_levels : int
        Number of levels q (grouped), or of columns of ``Z`` (general).
    columns : ndarray of float, shape (n, k), or None
        The term's model-matrix columns; None stands for one column of ones.  Ignored for a general term.
    covariance : str or Structure
        How the k effects of a level are correlated: a `mme.engine.covariance.structure.Structure`, or
        the name of one (``"full"``, ``"diagonal"``, ``"cs"``, ``"ar1"``, ``"rr(2)"``, ...).
    Z : scipy.sparse array or matrix, shape (n, q), or None
        A general term: its columns are independent with a common variance (one parameter), or, with `effects`
        above one, stand level by level, shape (n, q k).
    column_names : tuple of str
        Names of the k columns, for messages.
    relation : Relation, optional
        Known covariance A between the levels: u ~ N(0, sigma2 A (x) D). By default they are independent.
    effects : int
        k of a general term.

    Notes
    -----
    Several terms may share the same ``codes``; they are then solved as one block with a
    block-diagonal covariance, so ``(x || g)`` is cheap however it is written.
    """

    name: str
    codes: np.ndarray | None
    n_levels: int
    columns: np.ndarray | None = None
    covariance: Structure | str = "full"
    Z: sp.sparray | sp.spmatrix | None = None
    column_names: tuple[str, ...] = ("(Intercept)",)
    relation: Relation | None = None
    effects: int = 1

    @property
    def k(self) -> int:
        """Number of effects per level."""
        if self.Z is not None:
            return self.effects
        return 1 if self.columns is None else self.columns.shape[1]

    @property
    def structure(self) -> Structure:
        """How the k effects of a level may covary."""
        return structure_of(self.covariance)

    @property
    def general(self) -> bool:
        """Whether the term is an arbitrary sparse design rather than codes of a factor."""
        return self.Z is not None

    @property
    def n_effects(self) -> int:
        """Number of columns of Z_t: levels times effects per level."""
        return self.n_levels * self.k

    def related(self, v: np.ndarray) -> np.ndarray:
        """Effects with the term's covariance between levels from independent ones, shape (n_levels, ...)."""
        return v if self.relation is None else self.relation.related(v)

    def times(self, u: np.ndarray) -> np.ndarray:
        """Z u: what random effects contribute to the rows.

        Parameters
        ----------
        u : ndarray, shape (n_levels, k) or (n_levels * k,)
            Effects of every level.

        Returns
        -------
        ndarray, shape (n,)
        """
        if self.Z is not None:
            return self.Z @ np.ravel(u)
        if self.columns is None:
            return np.ravel(u)[self.codes]
        effects = np.reshape(u, (self.n_levels, self.k))
        if self.k == 1:
            return effects[:, 0][self.codes] * self.columns[:, 0]
        return np.einsum("ij,ij->i", self.columns, effects[self.codes])


@dataclass(frozen=True, eq=False)
class Design:
    """Response, fixed-effects design, random terms and weights; validated on construction.

    Parameters
    ----------
    y : array_like, shape (n,)
        Response, float64.
    X : array_like, shape (n, p)
        Fixed-effects design, float64; may be rank deficient (the engine then drops columns by name).
    terms : sequence of RandomTerm
        At least one.
    weights : array_like, shape (n,), optional
        Positive prior weights: var(e_i) = sigma2 / weights_i.
    offset : array_like, shape (n,), optional
        Known part of the linear predictor.
    x_names : sequence of str, optional
        Names of the columns of X, for messages.
    more_effects_than_rows : bool
        Accept a term with several effects per level and more effects in all than rows: its covariance can
        still be told from the residual variance where the covariates differ from level to level.
    fixed_only : bool
        Accept a design without random terms: its residuals have a covariance structure.

    Raises
    ------
    DataError
        Empty, non-finite or non-numeric values, lengths that differ.
    DesignError
        A grouping factor with one level, or as many effects as rows.
    NotEnoughDataError
        Fewer rows than fixed-effects columns.
    """

    y: np.ndarray
    X: np.ndarray
    terms: tuple[RandomTerm, ...]
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None
    x_names: tuple[str, ...] = field(default=())
    more_effects_than_rows: bool = False
    fixed_only: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        y = _as_float(self.y, "the response y")
        X = _as_float(self.X, "the fixed-effects design X")
        if y.ndim != 1:
            raise DataError(f"the response y must be one-dimensional; it has shape {y.shape}.")
        n = y.size
        if n == 0:
            raise DataError("the data are empty: 0 rows. Check subset and missing values.")
        if X.ndim != 2:
            raise DataError(f"the fixed-effects design X must be two-dimensional; it has shape {X.shape}.")
        names = tuple(self.x_names) or tuple(f"x{j}" for j in range(X.shape[1]))
        put(self, "y", y)
        put(self, "X", X)
        put(self, "x_names", names)
        put(self, "terms", tuple(self.terms))
        if len(names) != X.shape[1]:
            raise DataError(f"X has {X.shape[1]} columns but {len(names)} names.")
        _check_rows("the fixed-effects design X", X.shape[0], n)
        _check_finite("the response y", y)
        _check_finite("the fixed-effects design X", X, names)
        _check_not_tiny("the response y", y[:, None])
        _check_not_tiny("the fixed-effects design X", X, names)
        for label in ("weights", "offset"):
            value = getattr(self, label)
            if value is not None:
                value = _as_float(value, label)
                _check_rows(label, value.shape[0] if value.ndim else 0, n)
                if value.ndim != 1:
                    raise DataError(f"{label} must be one-dimensional; it has shape {value.shape}.")
                _check_finite(label, value)
                put(self, label, value)
        if self.weights is not None:
            _check_not_tiny("weights", self.weights[:, None])
        if self.weights is not None and np.any(self.weights <= 0):
            bad = int(np.sum(self.weights <= 0))
            raise DataError(f"weights must be positive; {bad} are not. Drop those rows instead.")
        if X.shape[1] >= n:
            raise NotEnoughDataError(
                f"{n} rows cannot estimate {X.shape[1]} fixed effects and a residual variance. "
                "Use fewer columns or more data."
            )
        if np.ptp(y) == 0 and self.offset is None:
            raise DesignError(
                f"the response is constant (every value is {y[0]:g}); there is no variance to explain."
            )
        if not self.terms and not self.fixed_only:
            raise DesignError("the model has no random term; use ordinary least squares instead.")
        for term in self.terms:
            _check_term(term, n, self.more_effects_than_rows)

    def with_response(self, y: np.ndarray) -> Design:
        """The design of another response, shape (n,); only that is validated."""
        out = copy(self)
        y = _as_float(y, "the response y")
        if y.ndim != 1:
            raise DataError(f"the response y must be one-dimensional; it has shape {y.shape}.")
        if y.size != self.n:
            raise DataError(f"the response y has {y.size} rows but the design has {self.n}.")
        _check_finite("the response y", y)
        _check_not_tiny("the response y", y[:, None])
        if np.ptp(y) == 0 and self.offset is None:
            raise DesignError(
                f"the response is constant (every value is {y[0]:g}); there is no variance to explain."
            )
        object.__setattr__(out, "y", y)
        return out

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.y.size

    @property
    def p(self) -> int:
        """Number of fixed-effects columns, dependent ones included."""
        return self.X.shape[1]

    @property
    def has_rows(self) -> bool:
        """Whether the rows are here: sums over a stream of them are not."""
        return True

    def aliases(self, kept: np.ndarray) -> np.ndarray:
        """The other columns of X as combinations of the kept ones, shape (rank, p - rank)."""
        return np.linalg.lstsq(self.X[:, kept], self.X[:, ~kept], rcond=None)[0]

    def triangle(self, kept: np.ndarray) -> np.ndarray:
        """R of X = QR, of the kept columns, shape (rank, rank)."""
        return np.asarray(np.linalg.qr(self.X if kept.all() else self.X[:, kept], mode="r"))


def _as_float(values: object, label: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{label} is not numeric: {error}. Convert it, or use it as a factor.") from error


def _check_rows(label: str, rows: int, n: int) -> None:
    if rows != n:
        raise DataError(f"{label} has {rows} rows but the response has {n}.")


def _check_finite(label: str, values: np.ndarray, names: Sequence[str] = ()) -> None:
    # a finite sum of squares proves every value finite without an n-sized temporary
    flat = values.ravel(order="K")
    with np.errstate(over="ignore", invalid="ignore"):
        if np.dot(flat, flat) < _LARGEST**2:
            return
    finite = np.isfinite(values)
    if finite.all():
        if np.abs(values).max(initial=0.0) > _LARGEST:
            large = np.flatnonzero(np.abs(values).max(axis=0) > _LARGEST) if values.ndim == 2 else ()
            where = f" in column {', '.join(str(names[int(j)]) for j in large)}" if len(names) else ""
            raise DataError(
                f"{label} has values above {_LARGEST:g}{where}; their products overflow. Use a larger unit."
            )
        return
    nan, inf = count_non_finite(values)
    where = ""
    if values.ndim == 2 and len(names):
        columns = [str(names[int(j)]) for j in np.flatnonzero(~finite.all(axis=0))]
        where = f" in column{'s' if len(columns) > 1 else ''} {', '.join(columns)}"
    raise DataError(
        f"{label} has {nan} missing and {inf} infinite values{where}. "
        'Remove those rows, or use missing="drop" for the missing ones.'
    )


def _check_not_tiny(label: str, columns: np.ndarray, names: Sequence[str] = ()) -> None:
    # only a column that begins with a tiny value can have tiny values alone
    begins = np.flatnonzero(np.abs(columns[0]) < _SMALLEST)
    tiny = []
    for j in begins:
        largest = max(float(columns[:, j].max()), -float(columns[:, j].min()))
        if 0.0 < largest < _SMALLEST:
            tiny.append(str(names[int(j)]) if len(names) else str(j))
    if tiny:
        where = f" in column {', '.join(tiny)}" if len(names) else ""
        raise DataError(
            f"{label} has no value above {_SMALLEST:g}{where}; products of such values underflow. "
            "Use a smaller unit."
        )


def _check_term(term: RandomTerm, n: int, more_effects_than_rows: bool) -> None:
    label = f"random term '{term.name}'"
    try:
        structure_of(term.covariance)
    except ValueError as error:
        raise DesignError(f"{label}: {error}") from None
    if term.Z is not None:
        _check_rows(label, term.Z.shape[0], n)
        if term.Z.shape[1] != term.n_effects:
            raise DataError(f"{label}: Z has {term.Z.shape[1]} columns but n_levels is {term.n_levels}.")
        _check_relation(term)
        data = term.Z.data if hasattr(term.Z, "data") else np.asarray(term.Z)
        _check_finite(label, np.asarray(data, dtype=np.float64))
        if term.n_levels == 0 or data.size == 0 or not np.any(data):
            raise DesignError(f"{label}: its design is empty or zero, so its variance cannot be estimated.")
        if isinstance(term.structure, Pattern):
            _check_pattern(term, term.structure)
        return
    if term.codes is None:
        raise DesignError(f"{label} needs codes or Z.")
    codes = np.asarray(term.codes)
    if codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise DataError(f"{label}: codes must be a one-dimensional array of integers.")
    _check_rows(label, codes.size, n)
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= term.n_levels:
        raise DataError(f"{label}: codes run from {low} to {high}, outside 0..{term.n_levels - 1}.")
    _check_relation(term)
    if term.relation is None:
        check_levels(term, n, more_effects_than_rows)
    if term.columns is not None:
        columns = np.asarray(term.columns)
        if columns.ndim != 2 or columns.dtype.kind != "f":
            raise DataError(f"{label}: columns must be a two-dimensional float array.")
        _check_rows(label, columns.shape[0], n)
        _check_finite(label, columns, term.column_names)
        if columns.shape[1] == 0:
            raise DesignError(f"{label} has no columns.")
        _check_not_tiny(label, columns, term.column_names)
        # only a column that begins with zero can be zero everywhere
        begins = np.flatnonzero(columns[0] == 0)
        zero = [
            ", ".join(term.column_names[j : j + 1]) or str(j) for j in begins if not np.any(columns[:, j])
        ]
        if zero and not (term.structure.curved and term.structure.ordered):
            raise DesignError(f"{label}: column {', '.join(zero)} is zero everywhere; drop it.")
    if term.relation is None:
        check_effects(term, n, more_effects_than_rows)
    if isinstance(term.structure, Pattern):
        _check_pattern(term, term.structure)


def _check_pattern(term: RandomTerm, structure: Pattern) -> None:
    """Refuse a structure that the term is too small for, or whose correlations no level speaks of."""
    label = f"random term '{term.name}'"
    if term.Z is not None or term.k < structure.least:
        effects = "1 effect" if term.k == 1 else f"{term.k} effects"
        needs = f"needs at least {structure.least} effects a level"
        raise DesignError(
            f"{label} has {effects} a level, and the covariance structure {structure.name} {needs}: "
            f"write {structure.written('0 + f', 'g')} with a factor f of several levels, or (1 | g)."
        )
    assert term.columns is not None
    seen = np.zeros((term.n_levels, term.k), dtype=bool)
    for c in range(term.k):
        seen[term.codes[term.columns[:, c] != 0.0], c] = True  # type: ignore[index]  # there are codes
    if "sd" in structure.kinds(term.k) and structure.n_parameters(term.k) == 1:
        return
    if not np.any(seen.sum(axis=1) > 1):
        raise DesignError(
            f"{label}: every level has rows with one of its {term.k} effects alone, so that no level tells "
            f"their correlations ({structure.name}). Write (1 | g), diag(...), or check the grouping factor."
        )


def _check_relation(term: RandomTerm) -> None:
    if term.relation is not None and term.relation.q != term.n_levels:
        raise DataError(
            f"random term '{term.name}' has {term.n_levels} levels and its relationship {term.relation.q}."
        )


def check_levels(term: RandomTerm, n: int, more_effects_than_rows: bool) -> None:
    """Refuse a grouped term with one level, or with a level for every row.

    Raises
    ------
    DesignError
    """
    label = f"random term '{term.name}'"
    if term.n_levels < 2:
        raise DesignError(
            f"{label} has 1 level; a variance needs at least 2. Drop the term or check its grouping factor."
        )
    if term.n_levels >= n and (term.k == 1 or more_effects_than_rows):
        raise DesignError(
            f"{label} has {term.n_levels} levels in {n} rows; with one row per level its variance "
            "cannot be told from the residual. Drop the term or check its grouping factor."
        )


def check_effects(term: RandomTerm, n: int, more_effects_than_rows: bool) -> None:
    """Refuse a term with more effects than rows.

    Raises
    ------
    NotEnoughDataError
    """
    label = f"random term '{term.name}'"
    if term.n_effects > n and not (more_effects_than_rows or term.structure.curved):
        raise NotEnoughDataError(
            f"{label} has {term.n_effects} random effects ({term.n_levels} levels x {term.k} columns) for "
            f"{n} rows; its covariance and the residual variance cannot be told apart. "
            "Use fewer columns, or ||."
        )
