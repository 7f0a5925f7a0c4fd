"""The command benchmark: the card of an SAE, by which SAEs are compared."""

from __future__ import annotations

import argparse
import json
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_sae import load
from sparse_sae._io.atomic import write_json
from sparse_sae._io.files import FormatError
from sparse_sae.cli._parsing import AddCommand, count
from sparse_sae.cli.models import DEFAULT, add_model, lines, open_model

if TYPE_CHECKING:
    from sparse_sae.lm import Labelled

FIELDS = ("task", "text", "label", "held_out")


def add_benchmark(add: AddCommand) -> None:
    """`sparse-sae benchmark`."""
    card = add(
        "benchmark", _benchmark, "the card of an SAE: L0, FVU, cross-entropy recovered, sparse probing"
    )
    card.add_argument("sae", help="directory of a saved SAE, or hf://owner/name/path")
    card.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="held-out texts, one a line (default: the last prose of Python's own modules)",
    )
    card.add_argument("--tokens", type=count, default=20_000, help="of these texts (default: 20000)")
    card.add_argument(
        "--tasks",
        type=Path,
        metavar="FILE",
        help='for probing, JSON lines: {"task": …, "text": …, "label": true, "held_out": false} (default: five labels '
        "of made-up support tickets)",
    )
    card.add_argument(
        "--tickets", type=count, default=600, help="a split, where no tasks are given (default: 600)"
    )
    card.add_argument("--context", type=count, default=256, help="texts are cut there (default: 256 tokens)")
    card.add_argument("--json", type=Path, metavar="FILE", help="also write the card there")
    add_model(card, f"the one noted in the SAE, or {DEFAULT}")


def _benchmark(options: argparse.Namespace) -> int:
    sae = load(options.sae)
    tasks = (
        _tasks(options.tasks) if options.tasks else None
    )  # a damaged file is found before the model is opened
    model = open_model(options, sae)
    from sparse_sae.lm import benchmark

    texts = lines(options.texts) if options.texts else _last_documents()
    chosen = list(_up_to(options.tokens, options.context, texts, model.tokenizer))
    tasks = _ticket_tasks(options.tickets) if tasks is None else tasks
    card = benchmark(model, sae, chosen, tasks, max_tokens=options.context)
    print(card)
    if options.json:
        write_json(options.json, card.to_dict())
    return 0


def _last_documents() -> Iterator[str]:
    from sparse_sae.lm import english_documents

    return reversed(list(english_documents(roots=[Path(sysconfig.get_paths()["stdlib"])])))


def _up_to(tokens: int, context: int, texts: Iterator[str], tokenizer: Any) -> Iterator[list[int]]:
    """Token ids of texts, cut at the context, until there are as many tokens as asked for."""
    while tokens > 0 and (text := next(texts, None)) is not None:
        ids = [int(i) for i in tokenizer(text)["input_ids"][: min(context, tokens)]]
        if len(ids) > 1:
            yield ids
        tokens -= max(1, len(ids))


def _ticket_tasks(n: int) -> list[Labelled]:
    from sparse_sae.demo.tickets import LABELS, tickets
    from sparse_sae.lm import Labelled

    made = [*tickets(n, 0, "train", "large"), *tickets(n, 0, "held_out", "large")]
    held_out = [i >= n for i in range(2 * n)]
    texts = [ticket.text for ticket in made]
    return [Labelled(name, texts, [ticket.labels[name] for ticket in made], held_out) for name in LABELS]


def _tasks(path: Path) -> list[Labelled]:
    from sparse_sae.lm import Labelled

    rows: dict[str, list[Sequence[Any]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            task, text, label, held_out = (json.loads(line)[name] for name in FIELDS)
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path}: line {number}: expected an object with {', '.join(FIELDS)} ({error})"
            ) from None
        if not (isinstance(text, str) and text and {type(label), type(held_out)} == {bool}):
            raise FormatError(
                f"{path}: line {number}: expected text, and true or false as label and held_out"
            )
        rows.setdefault(str(task), []).append((text, label, held_out))
    if not rows:
        raise FormatError(f"{path}: no line in it; expected objects with {', '.join(FIELDS)}")
    return [Labelled(task, *map(list, zip(*found, strict=True))) for task, found in rows.items()]
