"""Fit a model to a data file: ``python -m mme "Reaction ~ Days + (Days | Subject)" mme:sleepstudy``."""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from .lmm.results import LinearMixedModelResults

__all__ = ["main"]

_EPILOG = """\
examples:
  python -m mme "Reaction ~ Days + (Days | Subject)" mme:sleepstudy
  python -m mme "y ~ x + (x | school) + (1 | pupil)" scores.csv.gz --ml --json fit.json
  unzip -p scores.zip | python -m mme "y ~ x + (1 | school)" - --subset "year >= 2010"

Formulas and subsets may use columns, numbers, text, operators and a list of functions (log, sqrt, poly, bs, C
and the like). --evaluate full runs any Python in them: for formulas of your own only.

exit status: 0 fitted, 2 an error (one line on stderr), 3 fitted but not converged, 130 interrupted
"""
_FORMATS = {
    "csv": ("csv", "txt"),
    "tsv": ("tsv", "tab"),
    "parquet": ("parquet", "pq"),
    "feather": ("feather", "arrow", "ipc"),
}
_COMPRESSED = ("gz", "bz2", "zip", "xz", "zst")
_OTHER = ("xlsx", "xls", "ods", "dta", "sav", "sas7bdat", "rds", "rdata", "rda", "json", "h5", "db")
# options of the engine that are flags too, with their types
_ENGINE: dict[str, tuple[type, str]] = {
    "seed": (int, "of the random probes of an iterative fit (0)"),
    "probes": (int, "probes of an iterative fit to begin with (12)"),
    "max_probes": (int, "probes of an iterative fit at most (256)"),
    "goal": (float, "largest Monte Carlo error over standard error (0.05)"),
    "loglik_probes": (int, "probes of an iterative fit's log-likelihood (16)"),
    "exact_steps": (int, "at most so many steps of the direct path after an iterative fit (0)"),
    "tol": (float, "predicted decrease of the deviance at which a direct fit stops (1e-8)"),
    "max_evaluations": (int, "most factorizations, or steps of an iterative fit (200)"),
}


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
    args = _arguments(argv)

    from .exceptions import ConvergenceWarning, MMEError, MMEWarning
    from .lmm.model import lmer

    options: dict[str, Any] = {name: value for name in _ENGINE if (value := getattr(args, name)) is not None}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MMEWarning)
            data = _read(args.file, args.format)
            results = lmer(
                args.formula,
                data,
                reml=not args.ml,
                subset=args.subset,
                missing=args.missing,
                evaluate=args.evaluate,
                context={},
                solver=args.solver,
                **options,
            )
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


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments; options of other software are answered with what to use."""
    from .hints import option_hint

    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        hints = [f"{name}: here {_in_flags(hint)}" for name in names if (hint := option_hint(name, "lmer"))]
        parser.error(" ".join([f"unrecognized arguments: {' '.join(unknown)}.", *hints]))
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mme",
        description="Fit a linear mixed model, with a formula in lme4's syntax, to a data file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("formula", help='for example "y ~ x + (x | g)"')
    parser.add_argument(
        "file", help="CSV, TSV, Parquet or Feather file, - for standard input, or mme:sleepstudy"
    )
    parser.add_argument("--version", action=_Version)
    parser.add_argument("--warm", action=_Warm)
    parser.add_argument("--ml", action="store_true", help="maximum likelihood instead of REML")
    parser.add_argument("--json", metavar="OUT", help="write estimates and the convergence record to OUT")
    parser.add_argument(
        "--format",
        choices=tuple(_FORMATS),
        help="of the file; by default from the ending of its name, CSV where that says nothing",
    )
    parser.add_argument("--subset", metavar="EXPR", help='rows to use, for example "Days >= 2"')
    parser.add_argument(
        "--missing",
        choices=("warn", "drop", "raise", "none"),
        default="warn",
        metavar="{warn,drop,raise}",
        help="rows with missing values: leave them out and say so (warn, the default), leave them out "
        "(drop), or refuse them (raise)",
    )
    parser.add_argument(
        "--evaluate",
        choices=("safe", "full"),
        default="safe",
        help="what formula and subset may do: see below (safe, the default), or run any Python (full)",
    )
    parser.add_argument(
        "--solver",
        choices=("auto", "direct", "iterative", "dense", "cholmod", "superlu"),
        default="auto",
        help="exact by a factorization (direct; dense, cholmod or superlu say which), or iterative",
    )
    for name, (kind, text) in _ENGINE.items():
        metavar = "N" if kind is int else "X"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    return parser


class _Warm(argparse.Action):
    """--warm; stands alone, like --version."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        text = "compile all numerical kernels into the cache and exit (for images and CI)"
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=text)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .engine.runtime.warm import warm

        warm()
        parser.exit()


class _Version(argparse.Action):
    """--version; what is installed is looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"mme {version('mme')}")
        parser.exit()


def _read(name: str, kind: str | None) -> pd.DataFrame:
    import pandas as pd

    from . import data_path
    from .exceptions import DataError

    if name.startswith("mme:"):
        name = str(data_path(name.removeprefix("mme:") + ".csv"))
    shown = "standard input" if name == "-" else name
    if kind is None:
        kind = _format(name)
    source: Any = io.BytesIO(sys.stdin.buffer.read()) if name == "-" else name
    readers = {"parquet": pd.read_parquet, "feather": pd.read_feather}
    try:
        if kind in readers:
            return readers[kind](source)
        table = pd.read_csv(source, sep="\t" if kind == "tsv" else ",")
    except ImportError as error:
        raise DataError(
            f"reading {kind.capitalize()} needs pyarrow, which is not installed: pip install pyarrow."
        ) from error
    except (ValueError, UnicodeDecodeError) as error:  # pandas' and Arrow's errors of parsing are ValueErrors
        written = kind.upper() if kind in ("csv", "tsv") else kind.capitalize()
        reason = str(error).rstrip(".")
        raise DataError(
            f"{shown} cannot be read as {written}: {reason}. --format says what a file is."
        ) from error
    _check_separator(table, shown)
    return table


def _check_separator(table: pd.DataFrame, shown: str) -> None:
    """One column whose name has separators in it is a table that was read with another one."""
    from .exceptions import DataError

    header = str(table.columns[0])
    for separator, name, remedy in (
        ("\t", "tabs", "use --format tsv"),
        (";", "semicolons", "separate them by commas or tabs first (mind decimal commas)"),
        (",", "commas", "use --format csv"),
    ):
        if table.shape[1] == 1 and separator in header:
            raise DataError(f"the columns of {shown} are separated by {name}: {remedy}.")


def _format(name: str) -> str:
    """Format of a file by the endings of its name."""
    from .exceptions import DataError

    endings = [suffix.lstrip(".").lower() for suffix in PurePath(name).suffixes]
    while endings and endings[-1] in _COMPRESSED:
        endings.pop()
    ending = endings[-1] if endings else ""
    if ending in _OTHER:
        raise DataError(
            f"{name}: files of type .{ending} are not read; save the table as CSV or Parquet, or read it in "
            "Python and call mme.lmer(formula, data)."
        )
    return next((kind for kind, known in _FORMATS.items() if ending in known), "csv")


def _one_line(message: object) -> str:
    return _in_flags(" ".join(str(message).split()))


def _in_flags(message: str) -> str:
    """Options as they are written here: missing="drop" is --missing drop."""
    names = "|".join(["missing", "evaluate", "solver", "subset", *_ENGINE])
    value = r"""("[^"]*"|'[^']*'|\w+(?:[.-]\w+)*)?"""

    def flag(match: re.Match) -> str:
        written = match[2] or ""
        plain = written.strip("'\"")
        word = plain if re.fullmatch(r"[\w.-]+", plain) else written
        return f"--{match[1].replace('_', '-')}{word and ' ' + word}"

    flagged = re.sub(rf"(?<![\w.-])({names})={value}", flag, message)
    return flagged.replace("reml=True or reml=False", "--ml or nothing (REML)")


def _as_json(results: LinearMixedModelResults) -> dict[str, object]:
    """Estimates and the convergence record, numbers as they are, None where they are not finite."""
    from .inference.coefficients import longer_than_the_fit

    fitted = results.fitted
    # what the summary computed, and nothing that it would not
    tests = results.coef_table() if fitted.exact and not longer_than_the_fit(fitted) else None
    fixed = {
        name: {"estimate": _number(b), "se": _number(se), "t": _number(t), "df": None, "p": None}
        for name, b, se, t in zip(
            results.fe_params.index, results.fe_params, results.bse_fe, results.tvalues, strict=True
        )
    }
    if tests is not None:
        for name, df, p in zip(fixed, tests["df"], tests["p"], strict=True):
            fixed[name].update(df=_number(df), p=_number(p))
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
        "n_dropped": results.n_dropped,
        "n_groups": results.n_groups,
        "loglik": _number(results.llf),
        "deviance": _number(results.deviance),
        "aic": _number(results.aic),
        "bic": _number(results.bic),
        "theta": [float(value) for value in results.theta],
        "sigma": results.sigma,
        "ddf": None if tests is None else tests.attrs["ddf"],
        "fixed_effects": fixed,
        "varcorr": varcorr,
        "is_singular": results.is_singular,
        "convergence": info,
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
