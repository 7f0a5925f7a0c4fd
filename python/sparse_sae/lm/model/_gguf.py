"""A quicker first load of GGUF files.

transformers parses a file's header anew for tokenizer, configuration and weights, and the parser goes through
every word of the vocabulary in Python. Here it is parsed once, without NumPy's slow memory-map slices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gguf
import numpy as np


class _Reader(gguf.GGUFReader):  # type: ignore[misc]  # gguf has no types
    def _build_fields(self, *args: Any) -> Any:
        self.data: Any = self.data.view(np.ndarray)  # the same memory, without a subclass's cost per slice
        return super()._build_fields(*args)


@contextmanager
def parsed_once() -> Iterator[None]:
    """While this is open, every `gguf.GGUFReader(path)` of one path is the same object."""
    readers: dict[str, Any] = {}
    original = gguf.GGUFReader

    def reader(path: Any) -> Any:
        if str(path) not in readers:
            readers[str(path)] = _Reader(path)
        return readers[str(path)]

    gguf.GGUFReader = reader
    try:
        yield
    finally:
        gguf.GGUFReader = original
