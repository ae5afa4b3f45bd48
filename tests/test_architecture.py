"""The house: who may import whom, read from the syntax trees (imports for types included).

`ROOMS` says where every module lives, from the doors down to the kernels; a module imports from its own room
and from rooms below. Imports inside functions are listed, each with its reason; the list may only shrink.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mme"

# from top to bottom; of the flat modules each is named, a folder stands for all in it
ROOMS = {
    "command line": ["__main__"],
    "facade": [
        "mixed_linear_model", "compat", "mixedlm_fit",
        "mixedlm_scipy", "mixedlm_options", "mixedlm_loglike",
        "mixedlm_iterative", "mixedlm_profile",
        "mixedlm_summary", "mixedlm_distribution", "mixedlm_results",
        "mixedlm_blups", "mixedlm_protocol",
        "mixedlm_likelihood", "mixedlm_hessian", "mixedlm_covariance",
        "mixedlm_names", "mixedlm_data", "mixedlm_formula",
        "mixedlm_frame", "mixedlm_groups", "mixedlm_params",
        "vc_design", "vc_formula", "sm_releases",
    ],
    "lmm": ["lmer", "results", "lmm"],
    "report": ["summary", "tables"],
    "fit": ["fit", "direct_fit", "iterative_fit", "forecast", "checks", "options", "record"],
    "formula": ["formula"],
    "engine": [
        "point", "careful", "perfect", "flat", "modes",
        "objective", "marginal", "state", "elimination", "plan",
        "iterative", "stochastic", "average_information", "solved", "pcg", "probes", "lanczos", "start",
        "optimizer", "coordinates", "cone", "evaluation", "equations", "structure", "fixed", "design",
        "derivatives", "covariance", "factor",
    ],
    "runtime": ["parallel", "notices", "memory", "hints", "exceptions"],
    "kernels": ["kernels"],
}  # fmt: skip
LEVEL = {module: level for level, room in enumerate(ROOMS.values()) for module in room}
ROOM = {module: name for name, room in ROOMS.items() for module in room}

# first-party imports inside functions
LAZY = {
    ("__main__", "exceptions"): "--help and --version answer before numba and pandas are loaded",
    ("__main__", "lmer"): "--help and --version answer before numba and pandas are loaded",
    ("__main__", "hints"): "--help and --version answer before numba and pandas are loaded",
    ("__main__", ""): "--help and --version answer before numba and pandas are loaded",
    ("compat", "mixed_linear_model"): "statsmodels' models take long to import; install() is asked for",
    ("compat", "mixedlm_params"): "as above",
    ("compat", "mixedlm_results"): "as above",
    ("compat", "mixedlm_names"): "as above",
    ("compat", "vc_design"): "as above",
    ("direct_fit", "iterative"): "the iterative path is not loaded before a large model wants it",
    ("fit", "iterative_fit"): "the iterative path is not loaded before a large model wants it",
    ("summary", "tables"): "statsmodels' summary takes long to import",
}

# besides formula/ and report: doors label results, and statsmodels' class takes pandas in and gives it out
PANDAS = {
    "__main__", "summary", "tables", "results", "mixedlm_data", "mixedlm_formula", "mixedlm_frame",
    "mixedlm_groups", "mixedlm_results", "mixedlm_summary", "sm_releases", "vc_formula",
}  # fmt: skip


@dataclass
class Imports:
    """What one module imports."""

    top: set[str] = field(default_factory=set)
    lazy: set[str] = field(default_factory=set)
    private: set[tuple[str, str]] = field(default_factory=set)
    others: set[str] = field(default_factory=set)


def _modules() -> dict[str, Path]:
    out = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


MODULES = _modules()


def _read(name: str, path: Path) -> Imports:
    found = Imports()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def targets(node: ast.ImportFrom) -> list[tuple[str, str]]:
        if node.level == 0:
            if (node.module or "").partition(".")[0] != "mme":
                found.others.add((node.module or "").partition(".")[0])
                return []
            base = (node.module or "").partition(".")[2]
        else:
            parts = package.split(".") if package else []
            parts = parts[: len(parts) - node.level + 1]
            base = ".".join([*parts, *([node.module] if node.module else [])])
        out = []
        for alias in node.names:
            full = f"{base}.{alias.name}".lstrip(".")
            out.append((full if full in MODULES else base, alias.name))
        return out

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    first, _, rest = alias.name.partition(".")
                    if first == "mme":
                        (found.lazy if inside else found.top).add(rest)
                    else:
                        found.others.add(first)
            elif isinstance(child, ast.ImportFrom):
                for target, what in targets(child):
                    (found.lazy if inside else found.top).add(target)
                    if what.startswith("_") and not what.startswith("__"):
                        found.private.add((target, what))
            visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text()), False)
    return found


IMPORTS = {name: _read(name, path) for name, path in MODULES.items()}


def _home(module: str) -> str:
    """The module or folder that ROOMS names."""
    return module.partition(".")[0]


def test_every_module_has_a_room():
    assert {_home(m) for m in MODULES if m} == set(LEVEL)


def test_no_circles():
    """Depth first over imports at the level of files; imports for types count, the package's own do not."""
    state: dict[str, int] = {}
    path: list[str] = []

    def walk(module: str) -> None:
        state[module] = 1
        path.append(module)
        for target in sorted(IMPORTS[module].top & MODULES.keys() - {"", module}):
            # a folder's __init__ is imported with each of its modules, and imports them
            if module.startswith(f"{target}."):
                continue
            assert state.get(target) != 1, " -> ".join([*path[path.index(target) :], target])
            if target not in state:
                walk(target)
        path.pop()
        state[module] = 2

    for module in MODULES:
        if module and module not in state:
            walk(module)


def test_rooms_import_downwards():
    upward = {
        (module, target)
        for module, found in IMPORTS.items()
        for target in found.top
        if module and target and LEVEL[_home(module)] > LEVEL[_home(target)]
    }
    assert upward == set()


def test_imports_inside_functions_have_a_reason():
    lazy = {(module, target) for module, found in IMPORTS.items() for target in found.lazy}
    assert lazy == set(LAZY)
    assert all(LAZY.values())


def test_no_private_name_crosses_a_module():
    assert {name: found.private for name, found in IMPORTS.items() if found.private} == {}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("kernels")])
def test_kernels_import_nothing_of_mme(module):
    first_party = {t for t in IMPORTS[module].top | IMPORTS[module].lazy if not t.startswith("kernels")}
    assert first_party == set()


def test_pandas_stays_with_the_labels():
    users = {m for m, found in IMPORTS.items() if "pandas" in found.others and _home(m) != "formula"}
    assert users == PANDAS


def test_no_file_has_two_things_in_it():
    """600 lines is where to ask what second thing moved in."""
    assert {m: n for m, p in MODULES.items() if (n := len(p.read_text().splitlines())) > 600} == {}
