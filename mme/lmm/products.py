"""`CrossProducts`: all that a fit needs of rows, as sums that add up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd

from ..exceptions import DataError
from ..fit.options import FitArguments
from ..stream.cluster import delayed_products, gather
from ..stream.products import Products
from ..stream.sources import is_cluster_frame
from ..stream.storage import read, write
from ..stream.survey import Request
from .model import LinearMixedModel

if TYPE_CHECKING:
    from .results import LinearMixedModelResults

__all__ = ["CrossProducts"]


class CrossProducts:
    """Cross-products of the rows of one model, which add up: made by `of`, joined by ``+``, fitted by `fit`.

    Nothing of single rows is kept: sums by level, by pairs of levels that meet, and of the columns.

    Parameters
    ----------
    products : Products
        See `of`.

    Examples
    --------
    >>> import mme
    >>> import pandas as pd
    >>> sleep = pd.read_csv(mme.data_path("sleepstudy.csv"))
    >>> half = mme.CrossProducts.of("Reaction ~ Days + (1 | Subject)", sleep[:90])
    >>> rest = mme.CrossProducts.of("Reaction ~ Days + (1 | Subject)", sleep[90:])
    >>> round((half + rest).fit().llf, 3)
    -893.233
    """

    def __init__(self, products: Products) -> None:
        self._products = products

    @classmethod
    def of(
        cls,
        formula: str,
        data: object,
        levels: Mapping[str, object] | None = None,
        *,
        weights: str | None = None,
        offset: str | None = None,
        subset: str | None = None,
        missing: str = "warn",
        evaluate: str = "full",
        context: int | Mapping[str, object] = 0,
        like: CrossProducts | None = None,
        progress: bool | None = None,
    ) -> CrossProducts:
        """The cross-products of one chunk of rows, or of a source of chunks.

        Parameters
        ----------
        formula : str
            As in `mme.lmer`; without transformations that need all rows at once (center, scale, poly,
            splines).
        data : DataFrame or anything `lmer` takes as rows or as a source of them
        levels : mapping of str to sequence, optional
            All levels of columns, for those that a chunk may not have: cross-products can be added if the
            factors of the fixed part have the same levels in all of them. Grouping factors need none: their
            levels are joined.
        weights, offset, subset : str, optional
            Names of columns, an expression.
        missing, evaluate, context
            As in `mme.lmer`.
        like : CrossProducts, optional
            To which these will be added: factors of the fixed part have its levels.
        progress : bool, optional
            A bar of the rows; None: on a terminal, once it has taken a while.

        Returns
        -------
        CrossProducts

        Raises
        ------
        FormulaError, DataError, OptionError

        Examples
        --------
        >>> import mme, pandas as pd
        >>> data = pd.read_csv(mme.data_path("sleepstudy.csv"))
        >>> parts = [data[:70], data[70:]]
        >>> first, second = (mme.CrossProducts.of("Reaction ~ Days + (Days | Subject)", p) for p in parts)
        >>> round((first + second).fit().llf, 4)
        -871.8141
        """
        request = Request(formula, weights, offset, subset, missing, evaluate, context)
        if like is not None:
            levels = {**like._products.coded_levels(), **(levels or {})}
        return cls(gather(request, data, levels, progress))

    @classmethod
    def delayed(
        cls,
        formula: str,
        data: object,
        levels: Mapping[str, object] | None = None,
        *,
        weights: str | None = None,
        offset: str | None = None,
        subset: str | None = None,
        missing: str = "drop",
        evaluate: str = "full",
        context: int | Mapping[str, object] = 0,
    ) -> Any:
        """As `of` for a frame of Dask, computed when asked: `.compute()`, or on a worker `.fit().compute()`.

        Parameters
        ----------
        formula, levels, weights, offset, subset, missing, evaluate, context
            As in `of`. Levels of factors of the fixed part that are not given are found at once.
        data : dask.dataframe.DataFrame

        Returns
        -------
        dask.delayed.Delayed
            Of the cross-products.

        Raises
        ------
        DataError
            Anything but a frame of Dask.
        """
        if not is_cluster_frame(data):
            raise DataError(f"delayed() takes a dask.dataframe.DataFrame, not a {type(data).__name__}.")
        request = Request(formula, weights, offset, subset, missing, evaluate, context)
        return delayed_products(request, data, levels, cls)

    def __add__(self, other: object) -> CrossProducts:
        if not isinstance(other, CrossProducts):
            return NotImplemented
        return CrossProducts(self._products.merged(other._products))

    def __radd__(self, other: object) -> CrossProducts:
        # sum() begins with 0
        return self if isinstance(other, int) and other == 0 else NotImplemented

    @property
    def nobs(self) -> int:
        """Rows that were added."""
        return self._products.sums.n

    @property
    def formula(self) -> str:
        """The formula."""
        return self._products.recipe.request.formula

    def check_cells(self, least: int) -> None:
        """Refuse levels of grouping factors with fewer than so many rows: their sums tell of single ones.

        Parameters
        ----------
        least : int

        Raises
        ------
        DataError
            With the levels and their rows.
        """
        small = self._products.small_cells(least)
        if small:
            listed = "; ".join(
                f"{group}: "
                + ", ".join(f"{level} ({rows})" for level, rows in counts.head(10).items())
                + (f" and {counts.size - 10} more" if counts.size > 10 else "")
                for group, counts in small.items()
            )
            raise DataError(f"levels with fewer than {least} rows: {listed}.")

    def cells(self) -> dict[str, pd.Series]:
        """Rows of every level of every grouping factor."""
        products = self._products
        return {
            ":".join(columns): pd.Series(
                block.counts, products.recipe.tables[columns].factor.levels, name="rows"
            )
            for columns, block in zip(products.recipe.group_columns, products.sums.blocks, strict=True)
        }

    def model(self) -> LinearMixedModel:
        """The model of all rows that were added."""
        design, equations = self._products.model_design()
        return LinearMixedModel(design, equations=equations)

    def fit(self, reml: bool = True, **options: Unpack[FitArguments]) -> LinearMixedModelResults:
        """Fit; see `LinearMixedModel.fit`.

        Returns
        -------
        LinearMixedModelResults
            Without rows: what needs them (`fittedvalues`, `resid`, bootstraps) is refused by name;
            ``predict(rows)`` takes any.
        """
        return self.model().fit(reml, **options)

    def save(self, path: str | os.PathLike[str], min_rows: int = 0) -> None:
        """Write to a file (Arrow IPC): sums, names of columns, levels; no rows.

        Parameters
        ----------
        path : str or path
        min_rows : int
            Refuse levels with fewer rows: see `check_cells`.

        Raises
        ------
        DataError
            Small cells; a formula with variables or functions of the caller.
        """
        self.check_cells(min_rows)
        write(self._products, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], evaluate: str = "safe") -> CrossProducts:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path
        evaluate : {"safe", "full"}
            Formulas are code: "safe" reads the files of others, "full" is needed where the file's formula has
            more than `evaluate="safe"` of `lmer` allows.

        Returns
        -------
        CrossProducts

        Raises
        ------
        DataError, FormulaError
        """
        return cls(read(path, evaluate))

    def __repr__(self) -> str:
        return f"<CrossProducts {self.formula!r}, {self.nobs} rows>"
