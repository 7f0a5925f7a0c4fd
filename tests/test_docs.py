"""Documents: links lead somewhere, README's Python runs, and versions are the same wherever they are pinned."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from sparse_sae._io.documents import blocks, filled, table

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("docs", "examples", "studies")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(p for f in FOLDERS for p in ROOT.glob(f"{f}/**/*.md"))])


def names(paths: list[Path]) -> list[str]:
    return [str(p.relative_to(ROOT)) for p in paths]


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", t)]
    missing = [
        t for t in targets if t.partition("#")[0] and not (document.parent / t.partition("#")[0]).exists()
    ]
    assert not missing


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_named_files_exist(name: str) -> None:
    """Paths in backticks that start at a folder of the repository."""
    paths = re.findall(r"`((?:python|cpp|tests|benchmarks|docs|\.ci)/[\w./-]*)`", (ROOT / name).read_text())
    assert paths
    assert not [p for p in paths if not (ROOT / p).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_blocks_are_whole(document: Path) -> None:
    """What scripts fill has a beginning and an end, and one name a document."""
    blocks(document.read_text(encoding="utf-8"))


def test_tables_of_benchmarks_are_those_of_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import browser
    import harvest
    import report

    results = {
        "docs/language-models.md": {"harvest": harvest.tables(json.loads(harvest.RESULT.read_text()))},
        "docs/browser.md": {"speed": browser.tables()},
        "docs/performance.md": {"bench": report.texts(report.read())["full"]},
        "README.md": {"bench": report.texts(report.read())["short"]},
    }
    for name, contents in results.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert filled(text, contents) == text


@pytest.mark.parametrize(
    ("study", "result", "document"),
    [
        ("architectures", "architectures.json", "architectures.md"),
        ("card", "card.json", "language-models.md"),
    ],
)
def test_pages_of_studies_are_those_of_their_results(
    study: str, result: str, document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies" / study))
    try:
        page = importlib.import_module("page")
        made = page.contents(json.loads((ROOT / "docs/results" / result).read_text()))
        text = (ROOT / "docs" / document).read_text(encoding="utf-8")
        assert made
        assert filled(text, made) == text
    finally:
        for name in ("common", "page"):  # studies name their modules alike
            sys.modules.pop(name, None)


def test_a_block_that_is_missing_or_broken_is_named() -> None:
    with pytest.raises(ValueError, match="got speed, for which the document has no <!-- speed --> block"):
        filled("<!-- size -->\n3\n<!-- /size -->", {"speed": "fast"})
    for broken in ("<!-- size -->\n3\n", "<!-- a -->\n<!-- /a -->\n<!-- a -->\n<!-- /a -->", "<!-- /a -->\n"):
        with pytest.raises(ValueError, match="once for each block"):
            blocks(broken)
    with pytest.raises(ValueError, match="got one of 1 cells, expected 2"):
        table(["a", "b"], [[1]])


def test_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    variables: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), variables)


# what makes the program of docs/language-models.md small enough for a tiny model; each must occur
SMALLER = {
    "blocks.15.hook_resid_post": "blocks.1.hook_resid_post",
    "150_000": "9_000",
    "600_000": "3_000",
    "d_sae=4608": "d_sae=64",
    "k=32": "k=8",
    "1903": "19",
    "300, 308": "8, 16",
    "lm = load_model()": "lm = load_model(None)",
}


def test_language_model_page_is_one_program(
    tiny_lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import copy
    import dataclasses

    from sparse_sae import lm as package

    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/language-models.md").read_text(), flags=re.DOTALL
    )
    program = "\n".join(blocks)
    for text, small in SMALLER.items():
        assert text in program
        program = program.replace(text, small)
    tokenizer = copy.copy(tiny_lm.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    lm = dataclasses.replace(tiny_lm, tokenizer=tokenizer)
    monkeypatch.setattr(package, "load_model", lambda _=None: lm, raising=False)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "language-models.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "recovered" in printed or "rec. zero" in printed
    assert "log-probability of 'Unfortunately, refunds are not available.'" in printed
    assert (tmp_path / "dose.png").stat().st_size > 1000


def test_pins_agree() -> None:
    pinned = set(
        re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    )
    hooks = set(re.findall(r'"([\w.-]+==[\w.]+)"', (ROOT / ".pre-commit-config.yaml").read_text()))
    assert hooks
    assert hooks <= pinned


def test_version_is_the_same_everywhere() -> None:
    in_pyproject = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    in_package = re.search(
        r'^__version__ = "(.*)"', (ROOT / "python/sparse_sae/__init__.py").read_text(), flags=re.MULTILINE
    )
    assert in_pyproject is not None and in_package is not None
    assert in_pyproject[1] == in_package[1]
    assert f"## {in_package[1]}" in (ROOT / "CHANGELOG.md").read_text()
