"""The installed package: what importing it costs, what it declares, and what it carries."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparse_sae

PACKAGE = Path(sparse_sae.__file__).parent


def imported(statement: str) -> set[str]:
    """Modules outside the standard library that a new interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return {name for name in out.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}


@pytest.fixture(scope="module")
def modules() -> set[str]:
    return imported("import sparse_sae")


def test_import_loads_numpy_scipy_sparse_and_kernels_only(modules: set[str]) -> None:
    base = imported("import numpy, numpy.linalg, numpy.random, numpy.typing, scipy.sparse")
    extra = {name.partition(".")[0] for name in modules - base} - {"sparse_sae"}
    assert extra <= {"numpy"}, f"`import sparse_sae` also loads {sorted(extra)}"


@pytest.mark.parametrize("part", ["lm", "cli", "demo", "store", "match", "synthetic", "_kernels.reference"])
def test_import_leaves_parts_for_later(modules: set[str], part: str) -> None:
    if part == "_kernels.reference" and sparse_sae.kernels()["level"] == "reference":
        pytest.skip("the NumPy kernels are the ones that were asked for")
    assert not {name for name in modules if f"{name}.".startswith(f"sparse_sae.{part}.")}


def test_import_loads_one_level(modules: set[str]) -> None:
    level = sparse_sae.kernels()["level"]
    loaded = {name for name in modules if name.startswith("sparse_sae._kernels._")} - {
        "sparse_sae._kernels._cpu"
    }
    assert loaded == {f"sparse_sae._kernels._{level}"} or level == "reference"


def test_import_prints_nothing() -> None:
    command = [sys.executable, "-W", "error", "-c", "import sparse_sae"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout == "" and out.stderr == ""


def test_all_names_exist_and_are_documented() -> None:
    for name in sparse_sae.__all__:
        assert (getattr(sparse_sae, name).__doc__ or "").strip(), f"sparse_sae.{name} has no docstring"
    assert sorted(sparse_sae.__all__) == list(dict.fromkeys(sorted(sparse_sae.__all__)))


def test_dir_shows_the_api_and_nothing_else() -> None:
    shown = {name for name in dir(sparse_sae) if not name.startswith("__")}
    assert shown == {*sparse_sae.__all__, *sparse_sae._PARTS}
    assert "Any" not in shown and "annotations" not in shown


@pytest.mark.parametrize(
    "part", ["data", "evaluation", "formats", "match", "probing", "pursuit", "synthetic", "toy"]
)
def test_parts_are_imported_where_they_are_named(part: str) -> None:
    """In a new interpreter, where nothing else has imported them."""
    imported(f"import sparse_sae; assert sparse_sae.{part}.__name__ == 'sparse_sae.{part}'")


def test_every_part_exists() -> None:
    for part in sparse_sae._PARTS:
        assert (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()
    with pytest.raises(AttributeError, match="module 'sparse_sae' has no attribute 'nothing'"):
        sparse_sae.nothing  # noqa: B018


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_kernels/__init__.pyi").is_file()


def installed() -> importlib.metadata.Distribution:
    """The metadata of an installed sparse_sae; a bare source tree on the path has none."""
    try:
        return importlib.metadata.distribution("sparse-sae")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("sparse_sae is on the path but not installed")


def test_version_is_said_once() -> None:
    assert installed().version == sparse_sae.__version__
    assert sparse_sae.kernels()["version"] in (sparse_sae.__version__, None)


def test_installed_files_are_the_package_alone() -> None:
    files = [str(f) for f in installed().files or () if "__pycache__" not in str(f)]
    direct = installed().read_text("direct_url.json") or ""
    if '"editable": true' in direct:
        pytest.skip("an editable install lists no files")
    strays = [
        f
        for f in files
        if not re.match(
            r"sparse_sae/|sparse_sae-[^/]*\.dist-info/|sparse_sae\.libs/|(\.\./)+bin/sparse-sae$", f
        )
        or re.search(r"\.(cpp|h|tmp|o|a|cmake)$|(^|/)tests?/", f)
    ]
    assert not strays
    for name in ("LICENSE", "Eigen-MPL-2.0.txt", "pybind11-BSD-3-Clause.txt"):
        assert any(f.endswith(f"licenses/{name}") for f in files), f"the wheel lacks {name}"


def test_command_is_declared() -> None:
    scripts = installed().entry_points.select(group="console_scripts")
    assert scripts["sparse-sae"].load()
