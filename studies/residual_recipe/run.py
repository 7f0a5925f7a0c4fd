"""SAEs of the residual stream against the residual recipe, joint and layer by layer, at equal sizes and data.

    python studies/residual_recipe/run.py                  # writes the result and the page; minutes on two cores
    python studies/residual_recipe/run.py --write-docs     # no model: fills the page from the result file

The recipe (ReSAE): an affine map predicts a hook point of the residual stream from the one before, and an SAE has only
the rest to explain. In place, the map is fed what stands at the earlier hook point: its own output there where that
one is replaced too. Writes docs/results/residual_recipe.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from page import contents  # beside this file

from sparse_sae import SAE, TopK, train
from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import blocks, fill
from sparse_sae.lm import english_documents, load_model, read_hooks, resolve, score_texts

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE = ROOT / "docs/results/residual_recipe.json", ROOT / "docs/circuits.md"
HOOKS = [f"blocks.{layer}.hook_resid_post" for layer in (9, 12, 15, 18, 21)]
LENGTH, K, D_SAE = 256, 32, 2304
F32 = NDArray[np.float32]


def rows_of(lm: Any, sequences: Sequence[Sequence[int]]) -> dict[str, F32]:
    """(N, D) at each hook point, the same tokens at all: no first positions, no massive activations."""
    seen: dict[str, list[F32]] = {hook: [] for hook in HOOKS}
    for ids in sequences:
        with torch.inference_mode():
            x = read_hooks(lm, HOOKS, torch.tensor([ids]))
        for hook in HOOKS:
            seen[hook].append(x[hook][0, 1:].float().numpy())
    whole = {hook: np.concatenate(parts) for hook, parts in seen.items()}
    kept = np.ones(len(whole[HOOKS[0]]), bool)
    for x in whole.values():
        norms = np.linalg.norm(x, axis=1)
        kept &= norms <= 4 * np.median(norms)
    return {hook: x[kept] for hook, x in whole.items()}


def affine(x: F32, y: F32) -> tuple[F32, F32]:
    """W, b of y ≈ x W + b, least squares."""
    mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
    a, b = x - mean_x, y - mean_y
    gram = a.T @ a
    W = np.linalg.solve(gram + 1e-4 * np.trace(gram) / len(gram) * np.eye(len(gram)), a.T @ b)
    return W.astype(np.float32), (mean_y - mean_x @ W).astype(np.float32)


class Recipe:
    """SAEs at hook points, each of what a map from the hook point before leaves over, or of everything (map None)."""

    def __init__(
        self, maps: dict[str, tuple[F32, F32] | None], saes: dict[str, SAE], limits: dict[str, float]
    ):
        self.maps, self.saes, self.limits = maps, saes, limits

    def rebuilt(self, hook: str, x: F32, before: F32 | None, sparse: bool = True) -> F32:
        """(N, D) what stands for x, given what stands at the hook point before."""
        found = self.maps[hook]
        base: F32 | float = 0.0 if found is None or before is None else before @ found[0] + found[1]
        out: F32 = np.asarray(base + self.saes[hook].reconstruct(x - base) if sparse else base, np.float32)
        return out

    @contextmanager
    def in_place(self, lm: Any, hooks: Sequence[str], sparse: bool = True) -> Iterator[None]:
        """Run the model through those; without `sparse` through their maps alone."""
        standing: dict[str, F32] = {}

        def edit(hook: str) -> Callable[[torch.Tensor], torch.Tensor]:
            def replace(x: torch.Tensor) -> torch.Tensor:
                rows = x.float().numpy().reshape(-1, x.shape[-1])
                if hook in hooks:
                    number = HOOKS.index(hook)
                    before = standing[HOOKS[number - 1]] if number else None
                    if sparse or self.maps[hook] is not None:
                        new = self.rebuilt(hook, rows, before, sparse)
                        stays = np.linalg.norm(rows, axis=1) > self.limits[hook]
                        stays.reshape(x.shape[:2])[:, 0] = True
                        rows = np.where(stays[:, None], rows, new)
                standing[hook] = rows
                return torch.from_numpy(rows.reshape(x.shape)).to(x.dtype)

            return replace

        with ExitStack() as stack:
            for hook in HOOKS:
                stack.enter_context(resolve(lm, hook).attach(edit(hook)))
            yield


def fvu(x: F32, other: F32) -> float:
    """Variance unexplained."""
    return float(((x - other) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())


def study(documents: int, held_out: int, trained: int) -> dict[str, Any]:
    """Both recipes on the same rows; cross-entropy on documents that are not among them."""
    began = time.perf_counter()
    lm = load_model()
    sequences = [
        ids
        for text in islice(english_documents(), documents + held_out)
        if len(ids := lm.tokenizer(text)["input_ids"][:LENGTH]) > 1
    ]
    train_on, measure_on = sequences[:-held_out], sequences[-held_out:]
    rows, other = rows_of(lm, train_on), rows_of(lm, measure_on)
    limits = {hook: 4 * float(np.median(np.linalg.norm(x, axis=1))) for hook, x in rows.items()}
    maps: dict[str, tuple[F32, F32] | None] = {HOOKS[0]: None}
    for below, above in pairwise(HOOKS):
        maps[above] = affine(rows[below], rows[above])
    recipes = {}
    scores: dict[str, Any] = {"fvu": {}, "loss": {}}
    for name, chosen in (("plain", dict.fromkeys(HOOKS)), ("residual", maps)):
        saes = {}
        for number, hook in enumerate(HOOKS):
            found = chosen[hook]
            base = 0.0 if found is None else rows[HOOKS[number - 1]] @ found[0] + found[1]
            data = np.ascontiguousarray(rows[hook] - base, np.float32)
            saes[hook] = train(data, TopK(k=K), d_sae=D_SAE, n_tokens=trained, seed=0, progress=False).sae
        recipes[name] = Recipe(chosen, saes, limits)
        scores["fvu"][name] = {
            hook: fvu(
                other[hook], recipes[name].rebuilt(hook, other[hook], other[HOOKS[n - 1]] if n else None)
            )
            for n, hook in enumerate(HOOKS)
        }
        print(name, scores["fvu"][name], flush=True)
    edits = {}
    for name, made in recipes.items():
        for hook in HOOKS:
            edits[f"{name} {hook}"] = lambda made=made, hook=hook: made.in_place(lm, [hook])
        edits[f"{name} joint"] = lambda made=made: made.in_place(lm, HOOKS)
        if name == "residual":
            edits[f"{name} maps"] = lambda made=made: made.in_place(lm, HOOKS, sparse=False)
    found_scores = score_texts(lm, measure_on, edits, batch_size=1, max_tokens=LENGTH)
    scores["loss"]["model"] = found_scores["unedited"].loss
    for key in edits:
        name, what = key.split(" ")
        scores["loss"].setdefault(name, {})[what] = found_scores[key].loss
    return {
        "model": lm.name, "hooks": HOOKS, "k": K, "d_sae": D_SAE, "trained": trained, "rows": len(rows[HOOKS[0]]),
        "eval_tokens": int(found_scores["unedited"].tokens.sum()), **scores, "seconds": time.perf_counter() - began,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the study, or only fill the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=6)
    parser.add_argument(
        "--tokens", type=int, default=80_000, help="rows each SAE is trained on, repeats included"
    )
    parser.add_argument("--write-docs", action="store_true")
    args = parser.parse_args(arguments)
    if not args.write_docs:
        write_json(RESULT, study(args.documents, args.held_out, args.tokens))
    fill(PAGE, contents(json.loads(RESULT.read_text()), list(blocks(PAGE.read_text()))))


if __name__ == "__main__":
    main()
