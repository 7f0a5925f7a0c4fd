"""What the commands share: how they are added, and how numbers and settings are read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

Run = Callable[[argparse.Namespace], int]


class AddCommand(Protocol):
    """Adds a command and returns its parser."""

    def __call__(self, name: str, run: Run, text: str) -> argparse.ArgumentParser: ...


def command_adder(commands: Any) -> AddCommand:
    """A function that adds commands to a set of subparsers; text describes one, in lower case."""

    def add(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        parser.set_defaults(run=run)
        return parser

    return add


def count(text: str) -> int:
    """A positive integer; 60_000, 60,000 and 6e4 are read too.

    >>> count("60,000") == count("6e4")
    True
    """
    try:
        value = Decimal(text.replace("_", "").replace(",", ""))
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not value.is_finite() or value < 1 or value != value.to_integral_value():
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return int(value)


def settings(items: list[str], option: str) -> dict[str, Any]:
    """NAME=VALUE pairs; values are read as JSON where they are, else kept as text.

    >>> settings(["k=64", "kind=tanh"], "--set")
    {'k': 64, 'kind': 'tanh'}
    """
    values: dict[str, Any] = {}
    for item in items:
        name, sign, text = item.partition("=")
        if not sign:
            raise ValueError(f"{option} {item}: expected NAME=VALUE")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def one_or_tuple(paths: list[str]) -> str | tuple[str, ...]:
    """A path, or several side by side."""
    return paths[0] if len(paths) == 1 else tuple(paths)
