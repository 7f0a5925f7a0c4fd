"""Names and values in YAML and JSON files that people write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?")


def read_values(path: str | Path) -> dict[str, Any]:
    """What a .yaml, .yml or .json file says. A number such as 2e7, without a point, is a whole one.

    Raises:
        ValueError: another ending, or a file that does not hold names and values.
    """
    path = Path(path)
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ValueError(f"config: got {path}, expected a file that ends in .yaml, .yml or .json")
    text = path.read_text(encoding="utf-8")
    values = _json(path, text) if path.suffix == ".json" else _yaml(path, text)
    if not isinstance(values, dict):
        raise ValueError(f"config: {path} holds a {type(values).__name__}, expected names and values")
    return values


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text, parse_float=number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config: {path} is not JSON ({error})") from None


def _yaml(path: Path, text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Plain values only. YAML 1.1, which PyYAML reads, would take 1e-3 for a text."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("!number", re.compile(rf"^{_NUMBER.pattern}$"), list("-+.0123456789"))
    Loader.add_constructor("!number", lambda loader, node: number(loader.construct_scalar(node)))
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"config: {path} is not YAML ({' '.join(str(error).split())})") from None


def number(text: str) -> int | float:
    """A number as people write it.

    >>> number("2e7"), number("1e-3"), number("2.0"), number("20_000")
    (20000000, 0.001, 2.0, 20000)
    """
    value = float(text.replace("_", ""))
    whole = "." not in text and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value
