"""English text that every machine with Python has: the documentation inside its modules.

Docstrings and comment blocks of the standard library and of installed packages, and the language reference
that `help()` shows. Files are parsed, never imported; what does not look like English sentences is dropped.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "_vendor"}
_COMMON_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        the a an of to and in is are was be that this it for on with as by or not if from at which can will
        may have has when but all any no one into its you we they then than these there such only must should
        also other more same each use used so do does been were out up how where what who their
        """,
    )
)
_MARKUP = (
    (re.compile(r":[\w:.+-]+:`~?\.?([^`<]+?)(?:\s*<[^>]*>)?`"), r"\1"),  # :class:`~a.B` -> a.B
    (re.compile(r"`{1,2}([^`]+)`{1,2}_{0,2}"), r"\1"),
    (re.compile(r"\*{1,2}(\w[^*\n]*)\*{1,2}"), r"\1"),
    (re.compile(r"\s+"), " "),
)


def english_documents(
    *, roots: Iterable[Path] | None = None, document_characters: int = 3000
) -> Iterator[str]:
    """Documents of English prose, in an order that depends only on the files.

    Args:
        roots: folders to look in, one after another; by default the standard library, then the installed
            packages. Within a root, files come in an order shuffled by their names, so that any beginning of
            the whole is a mixture of subjects.
        document_characters: a new document is begun when one has this many characters; a document is never of
            two files.

    Yields:
        Documents of some hundred to about `document_characters` characters, no paragraph twice. The standard
        library of Python 3.11 gives 0.3 million words.

    >>> next(english_documents()).count(" ") > 5
    True
    """
    seen: set[bytes] = set()
    for root in _default_roots() if roots is None else roots:
        for path in _files(Path(root)):
            document: list[str] = []
            size = 0
            for paragraph in _paragraphs_of_file(path):
                digest = hashlib.blake2b(paragraph.lower().encode(), digest_size=12).digest()
                if digest in seen:
                    continue
                seen.add(digest)
                document.append(paragraph)
                size += len(paragraph)
                if size >= document_characters:
                    yield "\n\n".join(document)
                    document, size = [], 0
            if size >= 200:
                yield "\n\n".join(document)


def looks_english(paragraph: str) -> bool:
    """Whether a paragraph is made of sentences rather than code, tables or signatures.

    >>> looks_english("The file is opened for reading, and closed when the block is left.")
    True
    >>> looks_english("x = foo(bar)[1:], y += baz(**kwargs)  # TODO")
    False
    """
    words = re.findall(r"[A-Za-z][A-Za-z'-]*", paragraph)
    if len(words) < 8 or paragraph.startswith((">>>", "...", "|", "+--")):
        return False
    common = sum(word.lower() in _COMMON_WORDS for word in words)
    plain = sum(character.isalpha() or character in " ,.'" for character in paragraph)
    return common >= 0.25 * len(words) and plain >= 0.88 * len(paragraph)


def _default_roots() -> list[Path]:
    paths = sysconfig.get_paths()
    return list(dict.fromkeys(Path(paths[key]) for key in ("stdlib", "purelib", "platlib")))


def _files(root: Path) -> list[Path]:
    relative = [
        path.relative_to(root)
        for path in root.rglob("*.py")
        if not _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts)
    ]
    relative.sort(key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())
    return [root / path for path in relative]


def _paragraphs_of_file(path: Path) -> Iterator[str]:
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escape sequences
            tree = ast.parse(source)
        texts = [*_docstrings(tree), *_comments(source)]
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for text in texts:
        for raw in re.split(r"\n\s*\n", text):
            paragraph = raw.strip()
            for pattern, replacement in _MARKUP:
                paragraph = pattern.sub(replacement, paragraph)
            if looks_english(paragraph):
                yield paragraph


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
        elif isinstance(node, ast.Dict):  # pydoc_data.topics: the language reference, one long string a topic
            for value in node.values:
                if (
                    isinstance(value, ast.Constant)
                    and isinstance(value.value, str)
                    and len(value.value) > 500
                ):
                    yield textwrap.dedent(value.value)


def _comments(source: str) -> Iterator[str]:
    """Blocks of at least three lines in a row that are comments."""
    for block in re.findall(r"(?:^[ \t]*#.*\n){3,}", source, re.MULTILINE):
        yield "\n".join(line.lstrip(" \t#!") for line in block.splitlines())
