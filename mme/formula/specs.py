"""What the formula engines know of a formula, as plain values and back: formulaic's and patsy's.

Both specifications hold objects of their engines, patsy's refuse to be pickled; here each is taken apart and
made again by its own constructors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..exceptions import DataError

__all__ = ["engine_of", "expressions", "info_from_plain", "info_to_plain", "spec_from_plain", "spec_to_plain"]

_CONTRASTS = ("Treatment", "SAS", "Sum", "Helmert", "Diff", "Poly")


def engine_of(spec: Any) -> str:
    """``"formulaic"`` or ``"patsy"``."""
    return "formulaic" if hasattr(spec, "structure") else "patsy"


def expressions(spec: Any) -> list[str]:
    """Python that is evaluated where rows are coded."""
    if engine_of(spec) == "formulaic":
        return sorted(
            {f.expr for term in spec.formula for f in term.factors if f.eval_method.value == "python"}
        )
    return sorted({factor.code for factor in spec.factor_infos})


# -- formulaic ----------------------------------------------------------------------------------------------


def spec_to_plain(spec: Any) -> dict[str, Any]:
    """A specification of formulaic's as plain values.

    Raises
    ------
    DataError
        Contrasts that are not formulaic's own.
    """
    terms = list(spec.formula)
    structure = [
        (
            terms.index(term),
            [(s.scale, [(f.factor.expr, f.reduced) for f in s.factors]) for s in scoped],
            list(columns),
        )
        for term, scoped, columns in spec.structure
    ]
    return {
        "terms": [[(f.expr, f.eval_method.value, f.kind.value) for f in term.factors] for term in terms],
        "ordering": spec.formula.ordering.value,
        "materializer": spec.materializer,
        "ensure_full_rank": spec.ensure_full_rank,
        "na_action": spec.na_action.value,
        "output": spec.output,
        "cluster_by": spec.cluster_by.value,
        "structure": structure,
        "transforms": dict(spec.transform_state),
        "encoders": [
            (expr, kind.value, {key: _state_to_plain(expr, key, v) for key, v in state.items()})
            for expr, (kind, state) in spec.encoder_state.items()
        ],
    }


def spec_from_plain(plain: dict[str, Any]) -> Any:
    """The specification again."""
    from formulaic import ModelSpec
    from formulaic.formula import SimpleFormula
    from formulaic.materializers.base import EncodedTermStructure
    from formulaic.materializers.types import EvaluatedFactor, ScopedFactor, ScopedTerm
    from formulaic.materializers.types.factor_values import FactorValues
    from formulaic.parser.types import Factor, Term

    made: dict[str, Any] = {}
    terms = []
    for factors in plain["terms"]:
        for expr, method, kind in factors:
            made.setdefault(expr, Factor(expr, eval_method=method, kind=kind))
        terms.append(Term([made[expr] for expr, _, _ in factors]))
    evaluated = {
        expr: EvaluatedFactor(factor, FactorValues(None, kind=factor.kind)) for expr, factor in made.items()
    }
    structure = [
        EncodedTermStructure(
            terms[number],
            [
                ScopedTerm([ScopedFactor(evaluated[expr], reduced) for expr, reduced in factors], scale)
                for scale, factors in scoped
            ],
            list(columns),
        )
        for number, scoped, columns in plain["structure"]
    ]
    encoders = {
        expr: (Factor.Kind(kind), {key: _state_from_plain(value) for key, value in state.items()})
        for expr, kind, state in plain["encoders"]
    }
    return ModelSpec(
        formula=SimpleFormula(terms, _ordering=plain["ordering"]),
        materializer=plain["materializer"],
        ensure_full_rank=plain["ensure_full_rank"],
        na_action=plain["na_action"],
        output=plain["output"],
        cluster_by=plain["cluster_by"],
        structure=structure,
        transform_state=plain["transforms"],
        encoder_state=encoders,
    )


def _state_to_plain(expr: str, key: str, value: Any) -> Any:
    if key != "contrasts":
        return value
    from formulaic.utils.sentinels import UNSET

    contrasts = value.contrasts
    name = type(contrasts).__name__.removesuffix("Contrasts")
    if type(contrasts).__module__ != "formulaic.transforms.contrasts" or name not in (*_CONTRASTS, "Custom"):
        raise DataError(f"{expr!r} has contrasts of type {type(contrasts).__name__}, which no file holds.")
    options = {k: v for k, v in vars(contrasts).items() if v is not UNSET}
    return {"contrasts": name, "options": options, "levels": list(value.levels)}


def _state_from_plain(value: Any) -> Any:
    if not (isinstance(value, dict) and "contrasts" in value):
        return value
    from formulaic.transforms import contrasts

    name = value["contrasts"]
    if name not in (*_CONTRASTS, "Custom"):
        raise DataError(f"the file names contrasts {name!r}, which are not known.")
    options = dict(value["options"])
    if name == "Custom":
        made = contrasts.CustomContrasts(options["contrasts"], names=options.get("contrast_names"))
    else:
        made = getattr(contrasts, f"{name}Contrasts")()
        vars(made).update(options)
    return contrasts.ContrastsState(made, value["levels"])


# -- patsy --------------------------------------------------------------------------------------------------


def info_to_plain(info: Any) -> dict[str, Any]:
    """A DesignInfo of patsy's as plain values."""
    factors = list(info.factor_infos)

    def contrast(factor: Any, own: Any) -> tuple[int, np.ndarray, list[str]]:
        return factors.index(factor), np.asarray(own.matrix, dtype=np.float64), list(own.column_suffixes)

    return {
        "columns": list(info.column_names),
        "factors": [
            {
                "code": factor.code,
                "type": own.type,
                "num_columns": own.num_columns,
                "categories": own.categories,
                "transforms": {name: dict(vars(t)) for name, t in own.state["transforms"].items()},
            }
            for factor, own in info.factor_infos.items()
        ],
        "terms": [
            (
                [factors.index(f) for f in term.factors],
                [
                    (
                        [factors.index(f) for f in sub.factors],
                        [
                            (
                                factors.index(f),
                                np.asarray(c.matrix, dtype=np.float64),
                                list(c.column_suffixes),
                            )
                            for f, c in sub.contrast_matrices.items()
                        ],
                        sub.num_columns,
                    )
                    for sub in subterms
                ],
            )
            for term, subterms in info.term_codings.items()
        ],
    }


def info_from_plain(plain: dict[str, Any]) -> Any:
    """The DesignInfo again: its functions are patsy's own and numpy's."""
    from collections import OrderedDict

    from patsy import ContrastMatrix, DesignInfo, EvalEnvironment, EvalFactor, Term
    from patsy.design_info import FactorInfo, SubtermInfo

    scope = EvalEnvironment([{"np": np}])
    factors, infos = [], {}
    for own in plain["factors"]:
        factor = EvalFactor(own["code"])
        state: dict[str, Any] = {}
        factor.memorize_passes_needed(state, scope)
        if state["transforms"].keys() != own["transforms"].keys():
            raise DataError(f"{own['code']!r} uses functions with a state that are not patsy's.")
        for name, values in own["transforms"].items():
            state["transforms"][name].__dict__.update(values)
        factors.append(factor)
        infos[factor] = FactorInfo(
            factor, own["type"], state, num_columns=own["num_columns"], categories=own["categories"]
        )
    codings = OrderedDict()
    for numbers, subterms in plain["terms"]:
        codings[Term([factors[j] for j in numbers])] = [
            SubtermInfo(
                [factors[j] for j in own],
                {factors[j]: ContrastMatrix(matrix, suffixes) for j, matrix, suffixes in contrasts},
                width,
            )
            for own, contrasts, width in subterms
        ]
    return DesignInfo(plain["columns"], infos, codings)
