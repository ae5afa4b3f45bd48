"""Formulas by what is changed in another one."""

from __future__ import annotations

import pytest

from mme.exceptions import FormulaError
from mme.formula.update import update_formula

OLD = "y ~ x + z + (x | g) + (1 | h)"


@pytest.mark.parametrize(
    "new, expected",
    [
        (". ~ . + w", "y ~ x + z + (x | g) + (1 | h) + w"),
        ("~ . + w", "y ~ x + z + (x | g) + (1 | h) + w"),
        (". ~ . - x", "y ~ z + (x | g) + (1 | h)"),
        (". ~ . - (x|g) + (1 | g)", "y ~ x + z + (1 | h) + (1 | g)"),
        ("log(.) ~ .", "log(y) ~ x + z + (x | g) + (1 | h)"),
        (". ~ . * w", "y ~ (x + z) * w + (x | g) + (1 | h)"),
        (". ~ (.)**2", "y ~ ((x + z))**2 + (x | g) + (1 | h)"),
        (". ~ . - 1", "y ~ x + z + (x | g) + (1 | h) - 1"),
        (". ~ . + x + (1|h)", OLD),
        (". ~ . + x:z - z", "y ~ x + (x | g) + (1 | h) + x:z"),
        ("v ~ w + (1 | g)", "v ~ w + (1 | g)"),
        (". ~ 0.5 * w + (1 | g)", "y ~ 0.5 * w + (1 | g)"),
    ],
)
def test_dots(new, expected):
    assert update_formula(OLD, new) == expected


def test_more_of_what_was_there():
    assert update_formula("y ~ (x + (1 | g))", ". ~ . - x") == "y ~ (1 | g)"
    assert update_formula("y ~ x", ". ~ . - x") == "y ~ 1"
    assert update_formula("y ~ x + offset(o) + (1|g)", ". ~ . - offset(o)") == "y ~ x + (1|g)"
    assert update_formula("y ~ x - 1 + (1|g)", ". ~ . + z") == "y ~ x - 1 + (1|g) + z"
    # a name with a dot is a name
    assert update_formula("y ~ x.a + (1|g)", ". ~ . + x.b") == "y ~ x.a + (1|g) + x.b"


def test_refusals():
    with pytest.raises(FormulaError, match=r"leaves out \(z \| g\).*There: \(x \| g\), \(1 \| h\)"):
        update_formula(OLD, ". ~ . - (z | g)")
    with pytest.raises(FormulaError, match="write one"):
        update_formula(OLD, ". + x")
    with pytest.raises(FormulaError, match="write the terms"):
        update_formula(OLD, ". ~ x - .")
    with pytest.raises(FormulaError, match="must be a string"):
        update_formula(OLD, 3)
