"""Checks of arguments, with errors that name them; fields of a dataclass are held against their annotations."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Hashable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np


def require(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raise a ValueError that names an argument, what came and what was expected, unless a condition holds."""
    if not condition:
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


def one_of(name: str, value: Any, choices: Any, error: type[Exception] = ValueError) -> Any:
    """A value that is one of some choices: names, numbers, the keys of a table, or a `Literal`.

    Raises:
        error: it is none of them; the message has them all.

    >>> one_of("mode", "add", ("add", "set"))
    'add'
    >>> one_of("mode", "addd", Literal["add", "set"])
    Traceback (most recent call last):
    ValueError: mode: got 'addd', expected one of add, set
    """
    known = get_args(choices) if get_origin(choices) is Literal else tuple(choices)
    if not isinstance(value, Hashable) or value not in known:
        raise error(f"{name}: got {value!r:.200}, expected one of {', '.join(map(str, known))}")
    return value


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A Python int from an int of Python or NumPy.

    Raises:
        TypeError: something else, True and 2.0 among them. ValueError: out of range.

    >>> whole("k", 3, least=1)
    3
    """
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: got {value!r}, expected a whole number")
    number = operator.index(value)
    if (least is not None and number < least) or (most is not None and number > most):
        upper = "" if most is None else f" up to {most}"
        raise ValueError(f"{name}: got {number}, expected a whole number from {least}{upper}")
    return number


def latent_numbers(given: Any, d_sae: int) -> Any:
    """(L,) int32 of a watch-list, the numbers of some latents in any order.

    Raises:
        ValueError: no list of whole numbers, or one out of range.
    """
    latents = np.asarray(given)
    if latents.ndim != 1 or not np.issubdtype(latents.dtype, np.integer) or not len(latents):
        raise ValueError(f"latents: expected a list of latent numbers, got {latents!r}")
    if latents.min() < 0 or latents.max() >= d_sae:
        raise ValueError(
            f"latents: {latents.min()} to {latents.max()}, expected 0 to d_sae - 1 = {d_sae - 1}"
        )
    return latents.astype(np.int32)


def real(name: str, value: Any, least: float | None = None, *, above: float | None = None) -> float:
    """A finite Python float from a number of Python or NumPy.

    Raises:
        TypeError: not a number. ValueError: NaN, infinite or out of range.

    >>> real("lr", 1, above=0)
    1.0
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {value!r}, expected a number")
    number = float(value)
    good = math.isfinite(number) and (least is None or number >= least) and (above is None or number > above)
    if not good:
        bound = (
            f" from {least:g} on" if least is not None else f" above {above:g}" if above is not None else ""
        )
        raise ValueError(f"{name}: got {number}, expected a finite number{bound}")
    return number


def known_names(what: str, given: Any, known: Any) -> None:
    """Raise a TypeError for names that are not known, each with the known one that it may stand for.

    >>> known_names("config", ["learning_rate", "sed"], ["seed", "lr", "warmup"])
    Traceback (most recent call last):
    TypeError: config: got 'learning_rate', 'sed' (did you mean 'seed'?), expected some of seed, lr, warmup
    """
    unknown = []
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, 1)
            unknown.append(f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name))
    if unknown:
        raise TypeError(f"{what}: got {', '.join(unknown)}, expected some of {', '.join(known)}")


def conform(instance: Any) -> None:
    """Check every field of a frozen dataclass against its annotation, and replace NumPy values by Python's.

    Whole numbers, numbers, booleans, texts, `Literal`s, tuples of these, and None where it may be, are checked;
    fields of other types are left alone. A bool is no number, 2.0 is no whole number, and NaN and infinity are
    refused.

    Raises:
        TypeError: a value of another type. ValueError: a number that is not finite, or a text that is no choice.
    """
    of: Any = type(instance)
    for name, hint in field_types(of).items():
        object.__setattr__(instance, name, as_declared(name, getattr(instance, name), hint))


@cache
def field_types(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def as_declared(name: str, value: Any, hint: Any) -> Any:
    """A value of the type that an annotation states, in plain Python.

    >>> as_declared("k", np.int64(3), int), as_declared("lr", 1, float | None)
    (3, 1.0)
    >>> as_declared("k", 2.5, int)
    Traceback (most recent call last):
    TypeError: k: got 2.5, expected a whole number
    """
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in choices:
            return None
        known = [choice for choice in choices if choice is not NoneType]
        return as_declared(name, value, known[0]) if len(known) == 1 else value
    if origin is Literal:
        return str(one_of(name, value, choices))
    if origin is tuple:
        return _tuple(name, value, choices)
    if hint is bool:
        return bool(_expect(isinstance(value, (bool, np.bool_)), name, value, "True or False"))
    if hint is int:
        return whole(name, value)
    if hint is float:
        return real(name, value)
    if hint is str:
        return str(_expect(isinstance(value, str), name, value, "a text"))
    return value


def _tuple(name: str, value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    _expect(isinstance(value, (tuple, list, np.ndarray)), name, value, "a tuple")
    items = tuple(value)
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(items)
    require(len(items) == len(hints), name, value, f"{len(hints)} values")
    return tuple(as_declared(name, item, hint) for item, hint in zip(items, hints, strict=True))


def _expect(condition: bool, name: str, value: Any, expected: str) -> Any:
    if not condition:
        raise TypeError(f"{name}: got {value!r:.200}, expected {expected}")
    return value


def as_json(name: str, value: Any) -> Any:
    """A value as JSON will hold it: NumPy numbers and arrays, tuples and paths become numbers, lists and texts.

    Raises:
        TypeError, ValueError: what JSON cannot hold, with the place where it is.

    >>> as_json("metadata", {"layer": np.int64(3), "range": (0, 1)})
    {'layer': 3, 'range': [0, 1]}
    >>> as_json("metadata", {"loss": float("nan")})
    Traceback (most recent call last):
    ValueError: metadata['loss']: got nan, expected a finite number, a text, True, False, None, a list or a dict
    """
    expected = "a finite number, a text, True, False, None, a list or a dict"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        require(math.isfinite(value), name, value, expected)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [as_json(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            _expect(isinstance(key, str), f"{name}: key", key, "a text")
        return {key: as_json(f"{name}[{key!r}]", item) for key, item in value.items()}
    raise TypeError(f"{name}: got {value!r:.200}, expected {expected}")
