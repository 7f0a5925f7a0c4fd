"""Checks of arguments: what counts as a number, said once, with errors that name the argument."""

from __future__ import annotations

import json
import math
import numbers
import operator
from collections.abc import Callable
from dataclasses import fields
from typing import Any


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A Python int from an int of Python or NumPy.

    Raises:
        TypeError: something else, True and 2.0 among them. ValueError: out of range.

    >>> whole("k", 3, least=1)
    3
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: got {value!r}, expected a whole number")
    number = operator.index(value)
    if (least is not None and number < least) or (most is not None and number > most):
        upper = "" if most is None else f" up to {most}"
        raise ValueError(f"{name}: got {number}, expected a whole number from {least}{upper}")
    return number


def real(name: str, value: Any, least: float | None = None, *, above: float | None = None) -> float:
    """A finite Python float from a number of Python or NumPy.

    Raises:
        TypeError: not a number. ValueError: NaN, infinite or out of range.

    >>> real("lr", 1, above=0)
    1.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {value!r}, expected a number")
    number = float(value)
    good = math.isfinite(number) and (least is None or number >= least) and (above is None or number > above)
    if not good:
        bound = (
            f" from {least:g} on" if least is not None else f" above {above:g}" if above is not None else ""
        )
        raise ValueError(f"{name}: got {number}, expected a finite number{bound}")
    return number


_KINDS: dict[str, Callable[[str, Any], Any]] = {"int": whole, "float": real}


def normalise_numbers(instance: Any) -> None:
    """Turn the fields of a dataclass that are declared int, float, or either or None into Python's own numbers.

    NumPy's are taken; what is no number is refused by the name of the field, before anything is computed with it.
    """
    for field in fields(instance):
        kind, _, optional = str(field.type).partition(" | ")
        value = getattr(instance, field.name)
        if kind in _KINDS and optional in ("", "None") and not (value is None and optional):
            object.__setattr__(instance, field.name, _KINDS[kind](field.name, value))


def as_json(name: str, value: Any) -> None:
    """Raise a ValueError or TypeError unless a value can be written as JSON, NaN and infinity being none."""
    try:
        json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: got {value!r:.200}, expected what JSON can hold ({error})") from None


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value) if hasattr(value, "__fspath__") else json.JSONEncoder().default(value)
