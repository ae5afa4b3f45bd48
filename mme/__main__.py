"""Fit a model to a CSV file: ``python -m mme "Reaction ~ Days + (Days | Subject)" mme:sleepstudy``."""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence

__all__ = ["main"]

_EPILOG = """\
examples:
  python -m mme "Reaction ~ Days + (Days | Subject)" mme:sleepstudy
  python -m mme "y ~ x + (x | school) + (1 | pupil)" scores.csv.gz --ml --json fit.json

exit status: 0 fitted, 2 an error (one line on stderr), 3 fitted but not converged, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        Exit status: 0 fitted, 2 an error, 3 not converged, 130 interrupted.
    """
    args = _parser().parse_args(argv)

    from .exceptions import ConvergenceWarning, MMEError, MMEWarning
    from .lmer import lmer

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MMEWarning)
            data = _read(args.file)
            results = lmer(args.formula, data, reml=not args.ml, missing=args.missing, solver=args.solver)
        for warning in caught:
            kind = "warning" if issubclass(warning.category, MMEWarning) else warning.category.__name__
            if not issubclass(warning.category, ConvergenceWarning):  # the summary says so itself
                print(f"mme: {kind}: {_one_line(warning.message)}", file=sys.stderr)
        print(results.summary())
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(_as_json(results), file, indent=1, allow_nan=False)
                file.write("\n")
    except (MMEError, OSError) as error:
        print(f"mme: {type(error).__name__}: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mme: interrupted", file=sys.stderr)
        return 130
    return 0 if results.converged else 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mme",
        description="Fit a linear mixed model, with a formula in lme4's syntax, to a CSV file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("formula", help='for example "y ~ x + (x | g)"')
    parser.add_argument("file", help="CSV file with a header line (may be .gz), or mme:sleepstudy")
    parser.add_argument("--ml", action="store_true", help="maximum likelihood instead of REML")
    parser.add_argument("--json", metavar="OUT", help="write estimates and the convergence record to OUT")
    parser.add_argument(
        "--missing",
        choices=("none", "drop"),
        default="none",
        help="rows with missing values: raise an error (none, the default) or leave them out (drop)",
    )
    parser.add_argument(
        "--solver",
        choices=("auto", "direct", "iterative", "dense", "cholmod", "superlu"),
        default="auto",
        help="exact by a factorization (direct; dense, cholmod or superlu say which), or iterative",
    )
    return parser


def _read(name: str) -> object:
    import pandas as pd

    from . import data_path
    from .exceptions import DataError

    if name.startswith("mme:"):
        name = str(data_path(name.removeprefix("mme:") + ".csv"))
    try:
        return pd.read_csv(name)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{name} cannot be read as CSV: {error}") from error


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _as_json(results: object) -> dict[str, object]:
    """Estimates and the convergence record, numbers as they are, None where they are not finite."""
    fixed = {
        name: {"estimate": _number(b), "se": _number(se), "t": _number(t)}
        for name, b, se, t in zip(
            results.fe_params.index, results.fe_params, results.bse_fe, results.tvalues, strict=True
        )
    }
    varcorr = [
        {**row, "vcov": _number(row["vcov"]), "sdcor": _number(row["sdcor"])}
        for row in results.varcorr.to_dict("records")
    ]
    info = {
        key: _number(value) if isinstance(value, float) else value for key, value in results.fit_info.items()
    }
    return {
        "formula": results.formula,
        "method": results.method,
        "nobs": results.nobs,
        "n_groups": results.n_groups,
        "loglik": results.llf,
        "deviance": results.deviance,
        "aic": results.aic,
        "bic": results.bic,
        "theta": [float(value) for value in results.theta],
        "sigma": results.sigma,
        "fixed_effects": fixed,
        "varcorr": varcorr,
        "is_singular": results.is_singular,
        "convergence": info,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
