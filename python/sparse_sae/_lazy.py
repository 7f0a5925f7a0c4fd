"""Public names of a package that are imported when they are first used, so that importing the package stays quick."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def public(package: str, where: Mapping[str, str], name: str) -> Any:
    """The body of a package's `__getattr__` (PEP 562): import the name, and let the package keep it.

    Args:
        package: `__name__` of the package.
        where: public name -> the module below the package that has it.
        name: what is asked for.

    Raises:
        AttributeError: no such name. ImportError: it needs the extra `lm`, which is not installed.
    """
    if name not in where:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{package}.{where[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "transformers"):
            raise
        raise ImportError(
            f'{package}.{name} needs the package {error.name!r}: pip install "sparse-sae[lm]"'
        ) from error
    setattr(sys.modules[package], name, value)
    return value
