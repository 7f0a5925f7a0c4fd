"""Dictionaries of several hook points of one model, as one object and as one directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_sae._io.atomic import atomic_directory
from sparse_sae.circuits import set_files
from sparse_sae.sae import SAE


@dataclass(frozen=True)
class Dictionary:
    """One SAE or transcoder and its place.

    Attributes:
        reads: hook point of its input.
        writes: hook point of what it reconstructs; the same for an SAE.
        sae: the weights.
    """

    reads: str
    writes: str
    sae: SAE


class DictionarySet(Mapping[str, Dictionary]):
    """Dictionaries of one model, by the hook point each writes.

    Args:
        saes: `{hook: sae}` for SAEs and `{(reads, writes): transcoder}` for transcoders; a transcoder under one
            hook is taken to write it, and its metadata must say `hook_name`, what it reads.
        model_name: the model they belong to.

    Raises:
        ValueError: no dictionary, two that write one hook point, a transcoder whose input is not named.

    >>> import numpy as np, sparse_sae
    >>> eye, zero = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    >>> sae = sparse_sae.SAE({"W_enc": eye, "W_dec": eye, "b_enc": zero, "b_dec": zero}, sparse_sae.TopK(k=1))
    >>> DictionarySet({"blocks.0.hook_resid_post": sae}, model_name="tiny")
    <DictionarySet of 'tiny': 1 dictionary, 4 latents>
    """

    def __init__(self, saes: Mapping[Any, SAE], *, model_name: str) -> None:
        self.model_name = model_name
        self._by_hook: dict[str, Dictionary] = {}
        if not saes:
            raise ValueError("saes: no dictionary, expected at least one hook point and its SAE")
        for key, sae in saes.items():
            reads, writes = key if isinstance(key, tuple) else (_reads(key, sae), key)
            if writes in self._by_hook:
                raise ValueError(f"saes: two dictionaries write {writes!r}; keep one")
            if reads != writes and sae.apply_b_dec_to_input:
                raise ValueError(
                    f"saes: {writes!r} is given an SAE that reads {reads!r}; only a transcoder may read another place"
                )
            self._by_hook[writes] = Dictionary(reads, writes, sae)

    def __getitem__(self, hook: str) -> Dictionary:
        return self._by_hook[hook]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_hook)

    def __len__(self) -> int:
        return len(self._by_hook)

    def __repr__(self) -> str:
        latents = sum(d.sae.d_sae for d in self.values())
        plural = "y" if len(self) == 1 else "ies"
        return f"<DictionarySet of {self.model_name!r}: {len(self)} dictionar{plural}, {latents} latents>"

    def check(self, model: Any, *, any_name: bool = False) -> None:
        """Raise where these dictionaries are not of this model.

        Args:
            model: a `LanguageModel` or a transformers model.
            any_name: accept a model of another name (a copy under another path, say); widths and hook points are
                checked all the same.

        Raises:
            ValueError: another name, a hook point that the model lacks, or a width that does not fit.
        """
        from sparse_sae.lm import hook_names, resolve

        name = getattr(model, "name", None)
        if name is not None and name != self.model_name and not any_name:
            raise ValueError(
                f"dictionaries: made for the model {self.model_name!r}, this one is {name!r}; load that model, or pass "
                "any_name=True if they are the same under two names"
            )
        from torch import nn

        module: Any = model if isinstance(model, nn.Module) else model.model
        widths = _widths(module, sorted({h for d in self.values() for h in (d.reads, d.writes)}))
        for d in self.values():
            for hook, width, what in ((d.reads, d.sae.d_in, "reads"), (d.writes, d.sae.d_out, "writes")):
                if hook not in widths:
                    try:
                        resolve(model, hook)
                    except ValueError as error:
                        raise ValueError(
                            f"dictionaries: one {what} {hook!r}, which this model does not have ({error}); its hook "
                            f"points go from {hook_names(model)[0]} to {hook_names(model)[-1]}"
                        ) from error
                elif widths[hook] != width:
                    raise ValueError(
                        f"dictionaries: the one of {d.writes!r} {what} {width} numbers a token, {hook!r} of this "
                        f"model has {widths[hook]}; it belongs to another model"
                    )

    def save(self, path: str | Path) -> None:
        """Write a directory with a manifest (model, hook points, SHA-256 of every file), whole or not at all."""
        with atomic_directory(path, ours=set_files.is_set) as fresh:
            rows = [
                set_files.write_one(fresh, i, d.reads, d.writes, d.sae) for i, d in enumerate(self.values())
            ]
            set_files.write_manifest(fresh, self.model_name, rows)

    @staticmethod
    def load(path: str | Path) -> DictionarySet:
        """Read what `save` or `train_set` wrote; of an unfinished training, the dictionaries that are done.

        Raises:
            FileNotFoundError: no manifest there. ValueError: not such a directory, or a file in it was changed.
        """
        manifest = set_files.read_manifest(Path(path))
        saes = {
            (row["reads"], row["writes"]): set_files.read_one(Path(path), row)
            for row in manifest["dictionaries"]
        }
        return DictionarySet(saes, model_name=manifest["model"])


def _reads(hook: Any, sae: SAE) -> str:
    if sae.apply_b_dec_to_input:
        return str(hook)
    reads = sae.metadata.get("hook_name")
    if not reads or reads == hook:
        raise ValueError(
            f"saes: the transcoder that writes {hook!r} does not say what it reads; use (reads, writes) as its key"
        )
    return str(reads)


def _widths(module: Any, hooks: list[str]) -> dict[str, int]:
    """Widths of those hook points that the model has."""
    import torch

    from sparse_sae.lm import read_hooks, resolve

    there = []
    for hook in hooks:
        try:
            resolve(module, hook)
        except ValueError:
            continue
        there.append(hook)
    if not there:
        return {}
    device = next(module.parameters()).device
    with torch.no_grad():
        seen = read_hooks(module, there, torch.zeros((1, 2), dtype=torch.long, device=device))
    return {hook: int(value.shape[-1]) for hook, value in seen.items()}
