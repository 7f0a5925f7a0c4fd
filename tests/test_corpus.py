"""The corpus of documentation: English prose, no code, no repeats, the same each time."""

from __future__ import annotations

import sysconfig
from itertools import islice
from pathlib import Path

import pytest

from sparse_sae.lm.harvest.corpus import english_documents, looks_english

PROSE = (
    "The reader takes the lines of the file one by one and hands them to the parser. When the parser has "
    "seen the end of a record, it returns the record to the caller, who may keep it or throw it away."
)


@pytest.mark.parametrize(
    "text",
    [
        PROSE,
        "If the value is not in the cache, it is computed again and stored for the next caller.",
        "You can use this class when you have more than one handler and all of them must be called.",
    ],
)
def test_sentences_look_english(text: str) -> None:
    assert looks_english(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Short and sweet.",
        ">>> for the value in the list: it is not the same as the other one",
        "def f(a, b): return {k: v for k, v in a.items() if k in b and not v.is_(None)}",
        "+------+------+ | the | of | and | in | is | are | to | +------+------+",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda",
        "Der Leser nimmt die Zeilen der Datei und gibt sie an den Zerleger weiter, der sie prüft.",
    ],
)
def test_code_tables_and_lists_do_not(text: str) -> None:
    assert not looks_english(text)


def make_package(root: Path) -> None:
    root.mkdir()
    (root / "a.py").write_text(f'"""{PROSE}\n\n    >>> 1 + 1\n    2\n"""\nx = 1  # no sentence at all\n')
    second = PROSE.replace("parser", "scanner")
    comment = "\n".join(f"# {line}" for line in (second[:60], second[60:130], second[130:]))
    # the same paragraph in other clothes, a new one in a comment block, and another in a method with markup
    third = PROSE.replace("parser", ":class:`~m.C`")
    (root / "b.py").write_text(
        f'class A:\n    """{PROSE}"""\n{comment}\n    def f(self):\n        """{third}"""\n'
    )
    (root / "broken.py").write_text("def (:\n")
    (root / "latin.py").write_bytes(b"# caf\xe9\n")
    (root / "tests").mkdir()
    (root / "tests" / "t.py").write_text(f'"""{PROSE.replace("reader", "test")}"""\n')


def test_documents_hold_each_paragraph_once_without_markup_and_tests(tmp_path: Path) -> None:
    make_package(tmp_path / "p")
    documents = list(english_documents(roots=[tmp_path / "p"], document_characters=10_000))
    text = "\n\n".join(documents)
    assert sorted(text.split("\n\n")) == sorted(
        [PROSE, PROSE.replace("parser", "scanner"), PROSE.replace("parser", "m.C")]
    )
    short = list(english_documents(roots=[tmp_path / "p"], document_characters=100))
    assert "\n\n".join(short) == text
    assert len(short) == 3


def test_the_standard_library_gives_plenty_of_english_in_a_fixed_order() -> None:
    roots = [Path(sysconfig.get_paths()["stdlib"])]
    documents = list(islice(english_documents(roots=roots), 40))
    assert documents == list(islice(english_documents(roots=roots), 40))
    assert len(documents) == 40
    assert sum(map(len, documents)) > 40_000
    assert len({document[:80] for document in documents}) == 40
    assert all(looks_english(part) for document in documents for part in document.split("\n\n"))
