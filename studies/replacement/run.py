"""What a model still says when dictionaries stand in for its layers, one at a time and all at once.

    python studies/replacement/run.py --set DIR --work DIR            # everything; goes on where it was stopped
    python studies/replacement/run.py VARIANT ... --set DIR --work DIR  # some of it
    python studies/replacement/run.py --write-docs                    # no model: fills the page from the result file

Writes docs/results/replacement.json. The set is that of
`sparse-sae train-set --d-sae 4608 --capture-tokens 80000 --tokens 160000` (skip transcoders of all MLPs; made here if
it is not there). Beside it stand dictionaries of the same size, k and rows by the residual recipe (recipes.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from page import contents  # beside this file
from recipes import Part, made, standing_in

from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import blocks, fill
from sparse_sae.circuits import DictionarySet, InPlace, replacement_quality, train_set
from sparse_sae.circuits.set_files import read_manifest
from sparse_sae.data.store import ActivationStore, aligned
from sparse_sae.lm import capture, english_documents, load_model
from sparse_sae.lm.steering.reconstruction import reconstruction

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE = ROOT / "docs/results/replacement.json", ROOT / "docs/circuits.md"
HELD_OUT = 16  # documents that the model is measured on; those after them are captured, as train-set does
SITES = tuple(range(2, 30, 3))  # layers whose residual stream is replaced
TRAINING: dict[str, Any] = {"d_sae": 4608, "k": 32, "n_tokens": 160_000, "seed": 0}
AT_ONCE = 10  # places that are measured in one go
VARIANTS = ("transcoders", "staged", "staged linear", "plain", "residual", "residual linear")


def texts() -> Iterator[str]:
    """What `sparse-sae train-set` reads."""
    return islice(english_documents(), HELD_OUT, None)


class Study:
    """The model, where things are kept, and what has been measured."""

    def __init__(self, args: argparse.Namespace, lm: Any) -> None:
        self.args, self.lm = args, lm
        self.out: Path = args.work
        self.training = {**TRAINING, "num_threads": args.threads}
        self.held_out = list(islice(english_documents(), HELD_OUT))
        self.file = self.out / "measured.json"
        self.measured: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self._parts: dict[tuple[str, str], Part] = {}

    @cached_property
    def set(self) -> DictionarySet:
        """Skip transcoders of all MLPs."""
        return train_set(
            self.lm,
            texts,
            self.args.set,
            d_sae=TRAINING["d_sae"],
            capture_tokens=self.args.capture_tokens,
            n_tokens=TRAINING["n_tokens"],
            num_threads=self.args.threads,
        )

    def places(self, recipe: str) -> list[tuple[str, str]]:
        """What each part of a recipe reads and writes; the same, for an SAE with nothing beneath it."""
        if recipe == "staged":
            return [(f"blocks.{n}.mlp.hook_in", f"blocks.{n}.hook_mlp_out") for n in range(self.lm.n_layers)]
        sites = [n for n in SITES if n < self.lm.n_layers]
        hooks = [f"blocks.{n}.hook_resid_post" for n in sites]
        if recipe == "plain":
            return [(hook, hook) for hook in hooks]
        below = [hooks[0], *(f"blocks.{n + 1}.hook_resid_pre" for n in sites[:-1])]
        return list(zip(below, hooks, strict=True))

    def stores(self) -> dict[str, ActivationStore]:
        """Activations of all hook points, captured in one pass."""
        pairs = [pair for recipe in ("staged", "plain") for pair in self.places(recipe)]
        return capture(
            self.lm,
            texts(),
            list(dict.fromkeys(hook for pair in pairs for hook in pair)),
            self.out / "activations",
            max_tokens=self.args.capture_tokens,
            compute_dtype=read_manifest(self.args.set)["training"]["compute_dtype"],
            parse_special=False,
        )

    def part(self, recipe: str, reads: str, writes: str) -> Part:
        """One dictionary of a recipe, trained if need be."""
        if reads == writes:
            recipe = "plain"
        if (recipe, writes) not in self._parts:
            out, rows = self.out / f"{recipe} {writes}", {}
            if not (out / "scores.json").exists():
                stores = self.stores()
                # a hook point before a layer holds what the layer below it left
                names = [_after(reads), writes]
                sides = list(zip(*(stores[name].split(0.1) for name in dict.fromkeys(names)), strict=True))
                for side, found in enumerate(sides):
                    both = aligned(list(found)) if len(found) > 1 else list(found)
                    rows[side] = both[0].rows(), both[-1].rows()
            x, y = (tuple(rows[side][i] for side in rows) for i in (0, 1))
            coder = "transcoder" if recipe == "staged" else "sae"
            self._parts[recipe, writes] = made(out, None if recipe == "plain" else x, y, coder, self.training)
            print(recipe, writes, self._parts[recipe, writes].scores, flush=True)
        return self._parts[recipe, writes]

    def standing_in(self, variant: str) -> list[InPlace]:
        """What is put in place, from the bottom up."""
        if variant == "transcoders":
            return [
                InPlace(d.reads, d.writes, lambda read, _, sae=d.sae: reconstruction(sae, read))
                for d in self.set.values()
            ]
        recipe, _, linear = variant.partition(" ")
        coder = "transcoder" if recipe == "staged" else "sae"
        return [
            standing_in(self.part(recipe, *place), *place, coder, linear == "linear")
            for place in self.places(recipe)
        ]

    def measure(self, variant: str) -> None:
        """Each alone (but for the affine maps), and all at once; what is measured is kept."""
        parts = self.standing_in(variant)
        groups: dict[str, list[InPlace]] = {}
        if "linear" not in variant:
            for start in range(0, len(parts), AT_ONCE):
                groups[f"{variant}/{start}"] = parts[start : start + AT_ONCE]
        for name, group in [*groups.items(), (f"{variant}/joint", parts)]:
            if name in self.measured:
                continue
            joint = name.endswith("joint")
            found = replacement_quality(
                self.lm, group, self.held_out, max_tokens=self.args.max_tokens, each=not joint
            ).to_dict()
            self.measured[name] = found[-1:] if joint else found[: len(group)]
            write_json(self.file, self.measured)
            print(name, [row["loss_dictionary"] for row in self.measured[name]], flush=True)

    def result(self) -> dict[str, Any]:
        """Everything measured so far, by variant."""
        variants: dict[str, Any] = {}
        for variant in VARIANTS:
            if f"{variant}/joint" not in self.measured:
                continue
            names = [n for n in self.measured if n.startswith(f"{variant}/") and not n.endswith("joint")]
            each = [row for n in names for row in self.measured[n]]
            variants[variant] = {"each": each, "joint": self.measured[f"{variant}/joint"][0]}
            if variant == "transcoders":
                variants[variant]["scores"] = [d.sae.metadata["held_out"] for d in self.set.values()]
            else:
                recipe = variant.partition(" ")[0]
                variants[variant]["scores"] = [self.part(recipe, *p).scores for p in self.places(recipe)]
        return {
            "model": self.lm.name,
            **TRAINING,
            "capture_tokens": self.args.capture_tokens,
            "documents": len(self.held_out),
            "max_tokens": self.args.max_tokens,
            "variants": variants,
        }


def _after(hook: str) -> str:
    """The hook point of the same residual stream after the layer below."""
    layer, _, name = hook.removeprefix("blocks.").partition(".")
    return f"blocks.{int(layer) - 1}.hook_resid_post" if name == "hook_resid_pre" else hook


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study, or only fill the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--set", type=Path, default=Path("set"))
    parser.add_argument("--work", type=Path, default=Path("replacement-work"))
    parser.add_argument("--capture-tokens", type=int, default=80_000)
    parser.add_argument("--max-tokens", type=int, default=96, help="of a held-out document")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write-docs", action="store_true")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.variants if name not in VARIANTS]:
        parser.error(f"VARIANT: got {', '.join(unknown)}, expected some of {', '.join(VARIANTS)}")
    if not args.write_docs:
        args.work.mkdir(parents=True, exist_ok=True)
        study = Study(args, load_model())
        for variant in args.variants or VARIANTS:
            study.measure(variant)
        write_json(RESULT, study.result())
    fill(PAGE, contents(json.loads(RESULT.read_text()), blocks(PAGE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
