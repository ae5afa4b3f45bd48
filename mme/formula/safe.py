"""What ``evaluate="safe"`` accepts: columns, literals, operators and the functions listed here.

Formulas are evaluated as Python (formulaic), subsets by pandas; both can reach anything that a program can.
An expression that passes here calls nothing but elementwise functions and codings of columns, takes no
attribute of a value, and computes no number larger than its literals suggest.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Container

from ..exceptions import DataError, FormulaError

__all__ = ["FUNCTIONS", "check_expression", "check_subset", "is_elementwise"]

_ONE = (1, 1)
_ELEMENTWISE = (
    "abs cbrt ceil cos cosh exp exp2 expm1 floor log log10 log1p log2 sign sin sinh sqrt square tan tanh"
).split()
# of numpy, with the numbers of positional arguments: one more would be the array to write to
_NUMPY = {
    **dict.fromkeys([*_ELEMENTWISE, "absolute", "arccos", "arcsin", "arctan", "rint", "trunc"], _ONE),
    **dict.fromkeys(["maximum", "minimum", "power"], (2, 2)),
    "clip": (3, 3),
    "where": (3, 3),
}
_CODINGS = {"C": (1, 2), "factor": (1, 2), "bs": (1, 2), "cc": (1, 2), "cr": (1, 2), "cs": (1, 2)}
_CODINGS |= {"poly": (1, 2), "center": _ONE, "scale": (1, 3), "standardize": (1, 3)}
_CONTRASTS = {"Treatment": (0, 1), "Sum": (0, 0), "Helmert": (0, 0), "Poly": (0, 0), "Diff": (0, 0)}
FUNCTIONS = {
    **dict.fromkeys("abs exp exp2 expm1 log log10 log1p log2 sqrt I Q".split(), _ONE),
    **_CODINGS,
    **_CONTRASTS,
}
_NOT_PASTED = frozenset(["C", "Q", "factor", *_CONTRASTS])  # no stateful transforms of formulaic
_CONTR = frozenset("SAS diff helmert poly sum treatment".split())
_KEYWORDS = frozenset(
    "base center constraints contrasts ddof degree df extrapolation include_intercept knots levels "
    "lower_bound raw reference rescale reverse scale scores upper_bound".split()
)
_OPERATORS = (
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.BitOr,
    ast.BitXor, ast.UnaryOp, ast.UAdd, ast.USub, ast.Not, ast.Invert, ast.BoolOp, ast.And, ast.Or,
    ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
)  # fmt: skip
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_UNQUOTED = re.compile(r"""[^"\\\x00-\x1f\x7f]*""")
_LARGEST_POWER = 64
_LARGEST_INTEGER = 1000  # degrees and degrees of freedom are sizes of matrices
_MATH = frozenset(_ELEMENTWISE) - {"cbrt", "exp2", "log2", "sign", "square"}  # those of pandas.eval


def check_expression(
    code: str, columns: Container[str], formula: str, is_text: Callable[[str], bool] = lambda name: False
) -> None:
    """Refuse a factor of a formula that does more than `evaluate="safe"` allows.

    Parameters
    ----------
    code : str
        Python, with names that are no identifiers in backticks.
    columns : container of str
    formula : str
        For the message.
    is_text : callable
        Whether a column of a name holds anything but numbers, which operators would repeat or join.

    Raises
    ------
    FormulaError
    """
    reason = _Check(columns, dict(FUNCTIONS), numpy=True, is_text=is_text).reason(code)
    if reason:
        raise FormulaError(
            f"formula {formula!r}: {code!r} {reason}. evaluate='safe' accepts columns, numbers, operators "
            f"and the functions {', '.join(sorted(FUNCTIONS))} and np.log, np.where and the like; "
            "evaluate='full' runs any Python."
        )


def check_subset(
    code: str, columns: Container[str], is_text: Callable[[str], bool] = lambda name: False
) -> None:
    """Refuse an expression for rows that does more than `evaluate="safe"` allows.

    Parameters
    ----------
    code : str
        For `DataFrame.eval`.
    columns : container of str
    is_text : callable
        As in `check_expression`.

    Raises
    ------
    DataError
    """
    pieces = re.split(r"""("[^"]*"|'[^']*'|`[^`]*`)""", code)
    # pandas reads & and | as "and" and "or", also in precedence
    pieces[::2] = [piece.replace("&", " and ").replace("|", " or ") for piece in pieces[::2]]
    functions = dict.fromkeys(_MATH, _ONE)
    reason = _Check(columns, functions, numpy=False, is_text=is_text).reason("".join(pieces))
    if reason:
        raise DataError(
            f"subset={code!r} {reason}. evaluate='safe' accepts columns, numbers, text and operators, such "
            "as \"x > 2 and site == 'A'\"; evaluate='full' runs any expression of pandas."
        )


def is_elementwise(code: str, columns: Container[str]) -> bool:
    """Whether what an expression gives for a row is known to depend on no other row, but for what is kept.

    Parameters
    ----------
    code : str
        A factor of a formula, with names that are no identifiers in backticks.
    columns : container of str
        Columns, and variables that are single values.

    Returns
    -------
    bool
        Whether `check_expression` accepts it: all it accepts is elementwise, or keeps the state of its
        transformation.
    """
    return not _Check(columns, dict(FUNCTIONS), numpy=True, is_text=lambda name: False).reason(code)


class _Unsafe(Exception):
    pass


class _Check:
    """Walks the syntax tree of one expression; anything that is not named here is refused."""

    def __init__(
        self,
        columns: Container[str],
        functions: dict[str, tuple[int, int]],
        numpy: bool,
        is_text: Callable[[str], bool],
    ) -> None:
        self.columns = columns
        self.is_text = is_text
        self.calls: list[str] = []
        self.functions = functions
        self.numpy = numpy
        self.aliases: dict[str, str] = {}

    def reason(self, code: str) -> str:
        """What is wrong with the expression; empty if nothing is."""
        from formulaic.utils.code import sanitize_variable_names

        try:
            tree = ast.parse(sanitize_variable_names(code, {}, self.aliases).strip(), mode="eval")
            self._visit(tree.body)
        except SyntaxError:
            return "is no expression of columns and operators"
        except (RecursionError, MemoryError):  # Python's parser says the latter of its own stack
            return "is nested too deeply"
        except _Unsafe as error:
            return str(error)
        return ""

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Constant):
            if not isinstance(node.value, int | float | str | bool | None):
                raise _Unsafe(f"holds a literal of type {type(node.value).__name__}")
            if isinstance(node.value, str) and not _UNQUOTED.fullmatch(node.value):
                # formulaic pastes calls into code of its own, in double quotes
                raise _Unsafe("holds text with a double quote, a backslash or a control character")
            pasted = [name for name in self.calls if name not in _NOT_PASTED and "." not in name]
            if pasted and isinstance(node.value, str) and "'" in node.value:
                raise _Unsafe(f"holds text with a quote within {pasted[0]}()")
        elif isinstance(node, ast.Name):
            if self.aliases.get(node.id, node.id) not in self.columns:
                raise _Unsafe(f"uses {node.id!r}, which is no column")
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Compare):
            for part in (node.left, *node.comparators):
                self._literal(part) if isinstance(part, ast.List | ast.Tuple) else self._visit(part)
            self._operators(node.ops)
        elif isinstance(node, ast.BinOp):
            for part in (node.left, node.right):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    raise _Unsafe("computes with text")
                self._visit(part)
                if isinstance(node.op, _ARITHMETIC):
                    self._no_text(part)
            self._operators([node.op])
            if isinstance(node.op, ast.Pow):
                self._power(node)
        elif isinstance(node, ast.UnaryOp):
            self._visit(node.operand)
            self._operators([node.op])
        elif isinstance(node, ast.BoolOp):
            for part in node.values:
                self._visit(part)
        else:
            raise _Unsafe(f"uses {_words(node)}")

    def _operators(self, operators: list) -> None:
        for operator in operators:
            if not isinstance(operator, _OPERATORS):
                raise _Unsafe(f"uses the operator {type(operator).__name__}")

    def _no_text(self, node: ast.AST) -> None:
        """Text times a number is the text so many times: memory for the asking."""
        if isinstance(node, ast.Compare | ast.keyword):
            return  # gives booleans; holds literals
        name = None
        if isinstance(node, ast.Name):
            name = self.aliases.get(node.id, node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value if node.value in self.columns else None  # of Q
        if name is not None and name in self.columns and self.is_text(name):
            raise _Unsafe(f"computes with {name!r}, which holds no numbers")
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id == "Q"):
            for part in node.args:
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    raise _Unsafe("computes with text")
        for child in ast.iter_child_nodes(node):
            self._no_text(child)

    def _call(self, node: ast.Call) -> None:
        self.calls.append(ast.unparse(node.func))
        self._checked_call(node, self.calls[-1])
        self.calls.pop()

    def _checked_call(self, node: ast.Call, name: str) -> None:
        limits = self.functions.get(name) if isinstance(node.func, ast.Name) else None
        elementwise = False
        if limits is None and self.numpy and isinstance(node.func, ast.Attribute):
            module, _, function = name.rpartition(".")
            if module == "np":
                limits, elementwise = _NUMPY.get(function), True
            elif module == "contr" and function in _CONTR:
                limits = (0, 1)
        if limits is None or name.partition(".")[0] in self.columns:
            raise _Unsafe(f"calls {name!r}")
        if not limits[0] <= len(node.args) <= limits[1]:
            raise _Unsafe(f"calls {name!r} with {len(node.args)} arguments")
        for keyword in node.keywords:
            if keyword.arg not in _KEYWORDS or elementwise:
                raise _Unsafe(f"calls {name!r} with the keyword {keyword.arg!r}")
            self._literal(keyword.value, keyword.arg in ("knots", "levels"))
        if name == "Q":
            quoted = node.args[0]
            self._literal(quoted)
            if not isinstance(quoted, ast.Constant) or quoted.value not in self.columns:
                raise _Unsafe(f"uses {ast.unparse(quoted)}, which is no column")
            return
        for i, part in enumerate(node.args):
            if elementwise or (i == 0 and name not in _CONTRASTS and not name.startswith("contr.")):
                self._visit(part)
            else:
                self._literal(part)

    def _literal(self, node: ast.AST, any_size: bool = False) -> None:
        """Constants and lists of them; contrasts."""
        if isinstance(node, ast.List | ast.Tuple):
            for part in node.elts:
                self._literal(part, any_size=True)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
            self._literal(node.operand, any_size)
        elif isinstance(node, ast.Constant):
            self._visit(node)
            if isinstance(node.value, int | float) and abs(node.value) > _LARGEST_INTEGER and not any_size:
                raise _Unsafe(f"has an argument above {_LARGEST_INTEGER}")
        elif isinstance(node, ast.Call) and self.numpy:
            name = ast.unparse(node.func)
            if name not in _CONTRASTS and not name.startswith("contr."):
                raise _Unsafe(f"calls {name!r} in an argument")
            self._call(node)
        elif isinstance(node, ast.Attribute) and self.numpy:
            module, _, function = ast.unparse(node).rpartition(".")
            if module != "contr" or function not in _CONTR:
                raise _Unsafe(f"uses {_words(node)}")
        elif isinstance(node, ast.Name) and self.numpy and node.id in _CONTRASTS:
            return
        else:
            raise _Unsafe(f"has the argument {ast.unparse(node)!r}, which is no literal")

    def _power(self, node: ast.BinOp) -> None:
        """Python's integers have no largest one: powers of numbers alone must be small."""
        if not _has_name(node.left) and not isinstance(node.left, ast.Constant):
            raise _Unsafe("takes a power of a computed number")
        if _has_name(node.right):
            return
        exponent = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
        value = exponent.value if isinstance(exponent, ast.Constant) else None
        if not isinstance(value, int | float) or abs(value) > _LARGEST_POWER:
            raise _Unsafe(f"takes a power that is no number up to {_LARGEST_POWER}")


def _has_name(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Name) for part in ast.walk(node))


def _words(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"an attribute ({ast.unparse(node)})"
    return {"Subscript": "an index", "Lambda": "a function"}.get(
        type(node).__name__, f"a construct of Python ({type(node).__name__})"
    )
