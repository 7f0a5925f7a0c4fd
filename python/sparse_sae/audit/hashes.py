"""What is hashed, and how: canonical JSON (RFC 8785), and SHA-256 of SAEs, models, tokenizers and code.

A hash says that two things are the same, never that either is good.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.weights import what_encodes


def canonical(value: Any) -> bytes:
    """JSON as RFC 8785 writes it: one value, one sequence of bytes, on every machine.

    Args:
        value: dicts with string keys, lists, strings, finite numbers, booleans and None.

    Raises:
        ImportError: the extra `audit` is not installed. ValueError: NaN, infinity or an integer beyond ±2^53.

    >>> canonical({"b": 1.0, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    try:
        import rfc8785
    except ModuleNotFoundError as error:
        raise ImportError('sparse_sae.audit needs rfc8785: pip install "sparse-sae[audit]"') from error
    try:
        return bytes(rfc8785.dumps(value))
    except rfc8785.CanonicalizationError as error:
        raise ValueError(f"value: {error}; expected finite numbers, strings, lists and objects") from None


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


def sha256_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value; key order and layout do not matter.

    >>> sha256_of({"a": 1, "b": 2}) == sha256_of({"b": 2, "a": 1})
    True
    """
    return sha256(canonical(value))


def sae_sha256(sae: Any) -> str:
    """SHA-256 of everything that decides an SAE's codes: weights, architecture, centring and normalisation."""
    return _sha256_of_arrays(*what_encodes(sae))


def _sha256_of_arrays(arrays: dict[str, Array], settings: dict[str, Any]) -> str:
    digest = hashlib.sha256(canonical(settings))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(canonical([name, str(array.dtype), list(array.shape)]))
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def model_sha256(module: Any) -> str:
    """SHA-256 of a torch module's parameters and buffers, by name, dtype and shape."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(canonical([name, str(flat.dtype), list(flat.shape)]))
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer: its whole definition where it is a fast one, else its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return sha256(backend.to_str().encode())
    return sha256_of(dict(tokenizer.get_vocab()))


@cache
def code_sha256() -> str:
    """SHA-256 of this package's Python files and of the compiled kernels that run."""
    from sparse_sae import _kernels

    root = Path(__file__).resolve().parent.parent
    files = [path for path in root.rglob("*.py") if "__pycache__" not in path.parts]
    files += list((root / "_kernels").glob(f"_{_kernels.level}.*"))
    return sha256_of({path.relative_to(root).as_posix(): sha256(path.read_bytes()) for path in files})
