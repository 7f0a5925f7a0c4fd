"""Who may import whom: the layers of ARCHITECTURE.md, held against every import statement of the package."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sparse_sae

PACKAGE = Path(sparse_sae.__file__).parent
FILES = {
    ".".join(("sparse_sae", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): p
    for p in sorted(PACKAGE.rglob("*.py"))
}
TOOLS = ("cli", "demo", "bench", "circuits", "audit", "browser", "cluster", "__main__")
LAYERS = [  # from the bottom; a layer knows only those below it, and its own
    ("_kernels", "_threads"),
    ("_io",),
    (),  # everything that is not named here: the library
    ("lm",),
    TOOLS,
]


@cache
def imports(module: str, *, when_loaded: bool = False) -> frozenset[str]:
    """Modules of any package that a module imports; when_loaded: outside functions and type checking alone."""
    tree = ast.parse(FILES[module].read_text())
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    found, nodes = set(), [*tree.body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in FILES else base for a in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when_loaded:
            continue
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        else:
            nodes += list(ast.iter_child_nodes(node))
    return frozenset(found)


def layer(module: str) -> int:
    room = [*module.split("."), ""][1]
    return next((i for i, rooms in enumerate(LAYERS) if room in rooms), 2)


@pytest.mark.parametrize("module", [m for m in FILES if m != "sparse_sae"])
def test_a_layer_knows_only_those_below_it(module: str) -> None:
    ours = {name for name in imports(module) if name in FILES and name != "sparse_sae"}
    assert not {name for name in ours if layer(name) > layer(module)}


def test_no_circle() -> None:
    graph = {
        module: {name for name in imports(module, when_loaded=True) if name in FILES} - {module}
        for module in FILES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


RUNS_MODELS = ("lm", "circuits")  # the rooms whose modules are of torch from their first line


def heavy(module: str, *, when_loaded: bool = False) -> set[str]:
    roots = {name.partition(".")[0] for name in imports(module, when_loaded=when_loaded)}
    return roots & {"torch", "transformers", "gguf"}


@pytest.mark.parametrize("module", FILES)
def test_torch_stays_where_models_run_or_a_pt_file_is_opened(module: str) -> None:
    """And where rows that are torch tensors come in. Tools may reach for it in a function, not at the top."""
    reads_pt = ".pt" in FILES[module].read_text()
    if heavy(module) and module != "sparse_sae._io.arrays":
        assert layer(module) >= 3 or reads_pt
    if heavy(module, when_loaded=True):
        assert module.split(".")[1] in RUNS_MODELS or reads_pt


def test_the_rule_sees_an_import_at_the_top_and_not_one_in_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("top", "import torch\n"), ("inside", "def f():\n    import torch\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setitem(FILES, f"sparse_sae.audit.{name}", tmp_path / name)
    assert heavy("sparse_sae.audit.top", when_loaded=True) == heavy("sparse_sae.audit.inside") == {"torch"}
    assert not heavy("sparse_sae.audit.inside", when_loaded=True)
