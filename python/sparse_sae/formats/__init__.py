"""Pretrained files: one reader (and writer, where useful) a format."""

from __future__ import annotations

from pathlib import Path

from ..sae import SAE
from . import saelens

__all__ = ["load"]


def load(path: str | Path) -> SAE:
    """Open a saved SAE, whatever wrote it.

    Args:
        path: what `SAE.save` wrote, or a directory in SAELens' format.

    Raises:
        FileNotFoundError: nothing is there. ValueError: the files are not an SAE this package knows, or are
            truncated; the message says what was found.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: {path} does not exist")
    return saelens.read(path)
