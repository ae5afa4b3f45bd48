"""The house: who may import whom, read from the syntax trees (imports for types included).

`ROOMS` names the folders from the doors down to the kernels; a module imports from its own room and from
rooms below. Imports inside functions are listed, each with its reason; the list may only shrink.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mme"

# from top to bottom; a folder stands for all in it
ROOMS = [
    "__main__",
    "facade",  # statsmodels' door
    "lmm",  # lme4's door
    "report",
    "plot",
    "inference",
    "fit",
    "stream",  # what a formula asks of rows that come in chunks; the engine adds them up
    "formula",
    "relationship",  # known covariances between levels, with their labels
    "engine.direct",
    "engine.iterative",
    "engine.search",
    "engine.equations",
    "engine.factor",
    "engine.covariance",
    "engine.runtime",
    "engine.kernels",
    "hints",
    "exceptions",
]
LEVEL = {room: level for level, room in enumerate(ROOMS)}

# first-party imports inside functions
LAZY = {
    ("__main__", "exceptions"): "a misspelt option is answered before models and their libraries are set up",
    ("__main__", "lmm.model"): "a misspelt option is answered before models and their libraries are set up",
    ("__main__", "hints"): "a misspelt option is answered before models and their libraries are set up",
    ("__main__", "inference.coefficients"): "as lmm.model, which imports it",
    ("__main__", ""): "a misspelt option is answered before models and their libraries are set up",
    ("engine.kernels", "engine.kernels.dispatchers"): "Numba takes long to import; the first kernel wants it",
    ("__main__", "engine.runtime.warm"): "compiles; asked for by --warm alone",
    ("engine.runtime.warm", "engine.kernels.dispatchers"): "Numba takes long to import",
    ("fit.direct", "engine.iterative.root"): "the iterative path is not loaded before a large model wants it",
    ("fit.fit", "fit.iterative"): "the iterative path is not loaded before a large model wants it",
    ("lmm.model", "stream.cluster"): "what chunks need is not loaded for one frame",
    ("lmm.preflight", "stream.forecast"): "what chunks need is not loaded for one frame",
    ("lmm.preflight", "stream.survey"): "what chunks need is not loaded for one frame",
    ("lmm.results", "lmm.written"): "what chunks need is not loaded for one frame",
    ("lmm.model", "stream.survey"): "what chunks need is not loaded for one frame",
    ("report.summary", "report.tables"): "statsmodels' summary takes long to import",
    ("report.effects", "report.adapter"): "the package marginaleffects is an extra",
    ("facade.install", "facade.model"): "statsmodels' models take long to import; install() is asked for",
    ("facade.install", "facade.design.params"): "as above",
    ("facade.install", "facade.results.results"): "as above",
    ("facade.install", "facade.names"): "as above",
    ("facade.install", "facade.design.components"): "as above",
}

# besides formula/ and report/: doors label results, and statsmodels' class takes pandas in and gives it out
PANDAS = {
    "__main__",
    "facade.design.formula",
    "facade.design.frame",
    "facade.design.groups",
    "facade.design.inputs",
    "facade.design.lookup",
    "facade.design.vc_formula",
    "facade.many",
    "facade.releases",
    "facade.results.blups",
    "facade.results.results",
    "facade.results.summary",
    "lmm.products",
    "lmm.estimates",
    "lmm.results",
    "lmm.values",
    "relationship.fields",
    "relationship.genomic",
    "relationship.known",
    "relationship.pedigree",
    "stream.cluster",
    "stream.numbering",
    "stream.passes",
    "stream.products",
    "stream.recipe",
    "stream.sources",
    "stream.storage",
    "stream.survey",
    "stream.tables",
}


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


def _room(module: str) -> str:
    """The folder, or the module at the top, that ROOMS names."""
    return ".".join(module.split(".")[: 2 if module.startswith("engine.") else 1])


def test_every_module_has_a_room():
    assert {_room(m) for m in MODULES if m not in ("", "engine")} == set(ROOMS)


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
        if module and target and LEVEL[_room(module)] > LEVEL[_room(target)]
    }
    assert upward == set()


def test_imports_inside_functions_have_a_reason():
    lazy = {(module, target) for module, found in IMPORTS.items() for target in found.lazy}
    assert lazy == set(LAZY)
    assert all(LAZY.values())


def test_no_private_name_crosses_a_module():
    assert {name: found.private for name, found in IMPORTS.items() if found.private} == {}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("engine.kernels")])
def test_kernels_import_nothing_of_mme(module):
    first_party = {
        t for t in IMPORTS[module].top | IMPORTS[module].lazy if not t.startswith("engine.kernels")
    }
    assert first_party == set()


def test_pandas_stays_with_the_labels():
    labels = ("formula", "report")
    users = {m for m, found in IMPORTS.items() if "pandas" in found.others and _room(m) not in labels}
    assert users == PANDAS


def test_no_file_has_two_things_in_it():
    """600 lines is where to ask what second thing moved in."""
    assert {m: n for m, p in MODULES.items() if (n := len(p.read_text().splitlines())) > 600} == {}
