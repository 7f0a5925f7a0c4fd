"""`train_set`: a transcoder for each MLP asked for, and SAEs on the residual stream, from one model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_sae._arguments import whole
from sparse_sae.architectures import Architecture, TopK
from sparse_sae.circuits import set_files
from sparse_sae.circuits.dictionaries import DictionarySet
from sparse_sae.coders import Coder, Kind
from sparse_sae.data.store import ActivationStore, aligned
from sparse_sae.data.store.format import Dtype
from sparse_sae.evaluation.metrics import evaluate
from sparse_sae.lm import CaptureProgress, LanguageModel, capture, read_hooks
from sparse_sae.lm.harvest.reader import ComputeDtype, fastest_compute_dtype
from sparse_sae.training import checkpoint
from sparse_sae.training.trainer import train

_BYTES = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "int8": 1.05,
}  # of a number; int8 has a scale a row
_BESIDE = 32  # bytes of a token's columns beside its activations
_WORK = "work"
_HELD_OUT = 0.1


@dataclass(frozen=True)
class Place:
    """Where one dictionary of a set reads and writes; the same hook point for an SAE."""

    reads: str
    writes: str

    @property
    def coder(self) -> Kind:
        """ "sae" or "transcoder"."""
        return "sae" if self.reads == self.writes else "transcoder"

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hook points to capture."""
        return tuple(dict.fromkeys((self.reads, self.writes)))


Report = Callable[[Place, dict[str, Any]], None]


def places_of(
    model: LanguageModel, layers: Sequence[int] | None = None, residual: Sequence[int] = ()
) -> list[Place]:
    """The MLPs of those layers (None: of all) and the residual stream after these layers, from the bottom up.

    A transcoder reads what its MLP reads (`mlp.hook_in`, after the norm) and writes what that adds.

    Raises:
        ValueError: a layer that the model lacks, or none at all.
    """
    chosen = range(model.n_layers) if layers is None else layers
    for name, numbers in (("layers", chosen), ("residual", residual)):
        for number in numbers:
            whole(name, number, least=0, most=model.n_layers - 1)
    if not len(chosen) and not len(residual):
        raise ValueError("layers: none, expected the number of at least one layer, in layers or in residual")
    found = [(n, 0, Place(f"blocks.{n}.mlp.hook_in", f"blocks.{n}.hook_mlp_out")) for n in set(chosen)]
    found += [(n, 1, Place(*2 * (f"blocks.{n}.hook_resid_post",))) for n in set(residual)]
    return [place for *_, place in sorted(found, key=lambda item: item[:2])]


def train_set(
    model: LanguageModel,
    texts: Callable[[], Iterable[str]],
    out: str | Path,
    architecture: Architecture | None = None,
    *,
    layers: Sequence[int] | None = None,
    residual: Sequence[int] = (),
    d_sae: int | None = None,
    skip: bool = True,
    capture_tokens: int = 200_000,
    n_tokens: int | None = None,
    seed: int = 0,
    disk_bytes: int | None = None,
    dtype: Dtype = "float16",
    compute_dtype: ComputeDtype = "auto",
    context: int = 256,
    pack: bool = True,
    num_threads: int | None = None,
    progress: Callable[[CaptureProgress], None] | None = None,
    report: Report | None = None,
    **training: Any,
) -> DictionarySet:
    """Train the dictionaries of a circuit: transcoders of MLPs, and SAEs of the residual stream.

    Hook points are captured in groups that fit `disk_bytes`, one pass over the texts a group; a group's activations
    are deleted when its dictionaries are trained. Each dictionary is trained by `train` on the rows of its own hook
    points, so its bits do not depend on which others are made, or in which groups. The set in `out` is whole at
    every moment: it has the dictionaries that are done. Called again with the same settings, it goes on where it
    was interrupted, and with more layers it adds them.

    Args:
        model: from `load_model`.
        texts: a function that gives the texts, the same ones each time: every group reads them anew.
        out: directory of the set; `out/work` holds activations and checkpoints while it is made.
        architecture: of all dictionaries; None: `TopK(k=32)`.
        layers: whose MLP gets a transcoder; None: all.
        residual: layers after which the residual stream gets an SAE.
        d_sae: latents of each; None: eight times the model's width.
        skip: whether transcoders have a linear skip (Paulo et al. 2025, arXiv 2501.18823).
        capture_tokens: tokens read; a tenth of the texts is held out to measure each dictionary.
        n_tokens: rows each is trained on, repeats included; None: two passes over what was captured.
        seed: of first weights and the order of rows.
        disk_bytes: what a group may take; None: half of what is free at `out`.
        dtype: how activations are stored. context, pack: as for `capture`.
        compute_dtype: of the forward passes; "auto" measures once, and the whole set has what was faster then.
        num_threads: None: all cores; results do not depend on it.
        progress: of captures. report: called with each finished place and its held-out `fvu`, `l0`, `dead_fraction`.
        training: further arguments of `train`, such as lr or batch_size.

    Returns:
        The whole set in `out`, earlier layers included.

    Raises:
        ValueError: layers that the model lacks, a disk too small for a single place, or a set of other settings.

    >>> train_set(lm, english_documents, "set", layers=[10, 11], capture_tokens=100_000)  # doctest: +SKIP
    <DictionarySet of 'SmolLM2-135M-Instruct': 2 dictionaries, 9216 latents>
    """
    out = Path(out)
    capture_tokens = whole("capture_tokens", capture_tokens, least=1)
    architecture = TopK(k=32) if architecture is None else architecture
    d_sae = 8 * model.d_model if d_sae is None else whole("d_sae", d_sae, least=1)
    n_tokens = 2 * capture_tokens if n_tokens is None else whole("n_tokens", n_tokens, least=1)
    settings: dict[str, Any] = {
        "architecture": type(architecture).__name__,
        **architecture.config(),
        "d_sae": d_sae,
        "skip": skip,
        "capture_tokens": capture_tokens,
        "n_tokens": n_tokens,
        "seed": seed,
        "dtype": dtype,
        "context": context,
        "pack": pack,
        "compute_dtype": compute_dtype,
        **{name: repr(value) for name, value in training.items()},
    }
    manifest = _begun(out, model, settings)
    rows, known = manifest["dictionaries"], manifest["training"]
    made = {(row["reads"], row["writes"]) for row in rows}
    wanted = [p for p in places_of(model, layers, residual) if (p.reads, p.writes) not in made]
    budget = (
        shutil.disk_usage(out).free // 2 if disk_bytes is None else whole("disk_bytes", disk_bytes, least=1)
    )
    held = out / _WORK / "activations"
    for group in _groups(model, wanted, capture_tokens, dtype, budget):
        stores = capture(
            model,
            texts(),
            list(dict.fromkeys(h for p in group for h in p.hooks)),
            held,
            max_tokens=capture_tokens,
            context=context,
            pack=pack,
            dtype=dtype,
            compute_dtype=known["compute_dtype"],
            parse_special=False,
            progress=progress,
        )
        digest = stores[group[0].writes].manifest["shards"][-1]["state"]
        if known.setdefault("texts", digest) != digest:
            raise ValueError(
                f"texts: the set in {out} was made from other texts; give those, or another directory"
            )
        for place in group:
            run = out / _WORK / f"run of {place.writes}"
            fitted, held_out = _split([stores[hook] for hook in place.hooks])
            sae = train(
                tuple(fitted) if len(fitted) > 1 else fitted[0],
                architecture,
                d_sae=d_sae,
                n_tokens=n_tokens,
                seed=seed,
                coder=Coder(place.coder, skip and place.coder == "transcoder"),
                num_threads=num_threads,
                out=run,
                resume=checkpoint.exists(run),
                **training,
            ).sae
            scores = {}
            if all(len(store) for store in held_out):
                measured = evaluate(sae, *held_out, num_threads=num_threads)
                scores = {"fvu": measured.fvu, "l0": measured.l0, "dead_fraction": measured.dead_fraction}
                sae.metadata["held_out"] = {"rows": len(held_out[0]), **scores}
            rows.append(set_files.write_one(out, _free_number(rows), place.reads, place.writes, sae))
            set_files.write_manifest(out, model.name, rows, known)
            shutil.rmtree(run)
            if report is not None:
                report(place, scores)
        shutil.rmtree(held)
    shutil.rmtree(out / _WORK, ignore_errors=True)
    return DictionarySet.load(out)


def _begun(out: Path, model: LanguageModel, settings: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an earlier call with these settings, or a new one; it is there before anything else is."""
    if not set_files.is_set(out):
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"out: {out} holds something else; give another directory")
        out.mkdir(parents=True, exist_ok=True)
        fixed = settings["compute_dtype"]
        if fixed == "auto":
            fixed = fastest_compute_dtype(model, [f"blocks.{model.n_layers - 1}.hook_resid_post"])
        set_files.write_manifest(out, model.name, [], {**settings, "compute_dtype": fixed})
    manifest = set_files.read_manifest(out)
    before = {"model": manifest["model"], **manifest.setdefault("training", {})}
    before.pop("texts", None)  # known after a capture
    now = {"model": model.name, **settings}
    if now["compute_dtype"] == "auto":
        now["compute_dtype"] = before.get("compute_dtype")
    other = [
        f"{n} {before.get(n)!r}, now {now.get(n)!r}" for n in {**before, **now} if before.get(n) != now.get(n)
    ]
    if other:
        raise ValueError(
            f"out: the set in {out} was made with {'; '.join(other)}; use the same settings, or another directory"
        )
    return manifest


def _free_number(rows: Sequence[dict[str, Any]]) -> int:
    return 1 + max((int(row["folder"]) for row in rows), default=-1)


def _groups(
    model: LanguageModel, places: Sequence[Place], tokens: int, dtype: str, budget: int
) -> Iterator[list[Place]]:
    """Neighbouring places whose activations fit the budget together."""
    import torch

    group: list[Place] = []
    hooks: dict[str, int] = {}
    for place in places:
        with torch.inference_mode():
            seen = read_hooks(model, place.hooks, torch.zeros((1, 2), dtype=torch.long, device=model.device))
        sizes = {
            hook: int(tokens * (_BYTES[dtype] * value.shape[-1] + _BESIDE)) for hook, value in seen.items()
        }
        if sum(sizes.values()) > budget:
            raise ValueError(
                f"disk_bytes: {budget:,} are too few for {place.writes!r}, whose activations take "
                f"{sum(sizes.values()):,}; lower capture_tokens, or store them as dtype='int8'"
            )
        if sum({**hooks, **sizes}.values()) > budget:
            yield group
            group, hooks = [], {}
        group.append(place)
        hooks |= sizes
    if group:
        yield group


def _split(stores: Sequence[ActivationStore]) -> tuple[list[ActivationStore], list[ActivationStore]]:
    """Rows to train on and held-out ones, of the same tokens at every hook point."""
    pairs = [store.split(_HELD_OUT) for store in stores]
    fitted, held_out = [a for a, _ in pairs], [b for _, b in pairs]
    if len(stores) > 1:
        fitted, held_out = aligned(fitted), aligned(held_out)
    return fitted, held_out
