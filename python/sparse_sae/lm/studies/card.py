"""The card of an SAE: the numbers by which SAEs are compared, measured on the model that it reads.

The core is that of SAEBench (Karvonen et al. 2025, arXiv 2503.09532): L0, variance explained, cross-entropy recovered,
KL; and sparse probing: do one, two or five latents tell what a text is about? Beside them stand as many neurons (the
coordinates that the SAE reads) and a linear probe on all of these. SAEBench's TPP and SCR are left out: they were found
to be unreliable (arXiv 2605.18229). Absorption needs a hierarchy that is known, and is measured on planted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sae._arguments import require, whole
from sparse_sae.evaluation.metrics import Metrics, evaluate
from sparse_sae.lm.harvest.prompt_rows import prompt_rows
from sparse_sae.lm.harvest.streaming import stream
from sparse_sae.lm.model.loading import LanguageModel
from sparse_sae.lm.model.prompts import Prompt, token_ids
from sparse_sae.lm.steering.reconstruction import placed
from sparse_sae.lm.studies.quality import HookQuality, model_quality
from sparse_sae.probing import Probe, auroc, dense_probe, sparse_probe
from sparse_sae.sae import SAE

DENSE = 0.1  # a latent that fires on a larger share of the tokens is called dense, as SAEBench does


@dataclass(frozen=True)
class Labelled:
    """Texts with and without a label, and which of them only measure.

    Attributes:
        name: what the label says.
        texts: (n,) prompts.
        labels: (n,) booleans, both kinds among those that choose and among those that measure.
        held_out: (n,) booleans: nothing is chosen on these.

    >>> Labelled("greeting", ["hello you", "good bye"] * 2, [True, False] * 2, [False, False, True, True]).name
    'greeting'
    """

    name: str
    texts: Sequence[Prompt]
    labels: Sequence[bool]
    held_out: Sequence[bool]

    def __post_init__(self) -> None:
        n = len(self.texts)
        for name, given in (("labels", self.labels), ("held_out", self.held_out)):
            require(
                len(given) == n, f"{self.name}: {name}", f"{len(given)} values", f"{n}, one for each text"
            )
        labels, held = np.asarray(self.labels, bool), np.asarray(self.held_out, bool)
        for which, side in (("texts that choose", ~held), ("held-out texts", held)):
            found = f"{int(labels[side].sum())} with the label and {int((~labels[side]).sum())} without"
            both = labels[side].any() and not labels[side].all()
            require(bool(both), f"{self.name}: {which}", found, "some of both")


@dataclass(frozen=True)
class Probed:
    """How well a probe tells a label on held-out texts.

    Attributes:
        task: name of the `Labelled`. units: "latents" or "neurons".
        k: columns that the probe reads; None: all.
        auroc, accuracy: on held-out texts; accuracy at the threshold of the fit.
        chance: accuracy of always saying what is more frequent.
        columns: those that it reads, where they were chosen.
    """

    task: str
    units: str
    k: int | None
    auroc: float
    accuracy: float
    chance: float
    columns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Card:
    """What `benchmark` measured; prints as a page, `to_dict` gives JSON values.

    Attributes:
        hook: hook point. sae: what the SAE is, in words. tokens_trained: None where the file does not say.
        metrics: reconstruction of activations, first positions and massive ones left out.
        quality: the model through the SAE, those positions left as they are.
        dense: share of the latents that fire on more than a tenth of the tokens.
        probed: every probe of every task.
    """

    hook: str
    sae: str
    tokens_trained: int | None
    metrics: Metrics = field(repr=False)
    quality: HookQuality = field(repr=False)
    dense: float
    probed: list[Probed] = field(repr=False)

    def mean(self, units: str, k: int | None) -> tuple[float, float]:
        """AUROC and accuracy of the probes of these units with k columns, means over tasks."""
        found = [(p.auroc, p.accuracy) for p in self.probed if (p.units, p.k) == (units, k)]
        require(bool(found), "units, k", (units, k), "those of a probe that was measured")
        area, accuracy = np.mean(found, axis=0)
        return float(area), float(accuracy)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; densities are left out."""
        names = ("n_rows", "l0", "fvu", "explained_variance", "cosine", "dead_fraction", "shrinkage", "mse")
        q = self.quality
        recovered = {"recovered_zero": q.recovered_zero, "recovered_mean": q.recovered_mean}
        return {
            "hook": self.hook,
            "sae": self.sae,
            "tokens_trained": self.tokens_trained,
            **{name: getattr(self.metrics, name) for name in names},
            "dense": self.dense,
            "quality": vars(q) | {k: None if np.isnan(v) else v for k, v in recovered.items()},
            "probing": [vars(p) | {"columns": list(p.columns)} for p in self.probed],
        }

    def __str__(self) -> str:
        m, q = self.metrics, self.quality
        trained = "not known" if self.tokens_trained is None else f"{self.tokens_trained:,}"
        lines = [
            f"{self.sae} at {self.hook}; tokens trained on: {trained}",
            f"on {m.n_rows:,} activations: L0 {m.l0:.1f}, FVU {m.fvu:.3f} (explained {m.explained_variance:.3f}), "
            f"cosine {m.cosine:.3f}, shrinkage {m.shrinkage:.3f}, dead {m.dead_fraction:.1%}, dense {self.dense:.1%}",
            f"in the model, {q.tokens:,} predicted tokens: CE {q.loss:.3f}, with the SAE {q.loss_sae:.3f}; recovered "
            f"{q.recovered_zero:.3f} of zero ablation, {q.recovered_mean:.3f} of mean ablation; KL {q.kl_sae:.3f} nats",
        ]
        if self.probed:
            chance = np.mean([p.chance for p in self.probed])
            lines.append(
                f"probing, {len({p.task for p in self.probed})} tasks: AUROC · accuracy (chance {chance:.2f})"
            )
            for units, k in dict.fromkeys((p.units, p.k) for p in self.probed):
                area, accuracy = self.mean(units, k)
                lines.append(f"  {'all' if k is None else k} {units}: {area:.3f} · {accuracy:.3f}")
        return "\n".join(lines)


def benchmark(
    model: LanguageModel,
    sae: SAE,
    texts: Sequence[str | Sequence[int]],
    tasks: Sequence[Labelled] = (),
    *,
    ks: Sequence[int] = (1, 2, 5),
    max_tokens: int = 256,
    batch_size: int = 8,
) -> Card:
    """Measure an SAE by the numbers that people compare.

    Probes read the mean of each column over a text's tokens but the first. Columns are chosen, and logistic
    regressions fitted, on the texts of a task that are not held out.

    Args:
        model: the model that the SAE was trained on.
        sae: an SAE of one hook point, which its metadata name.
        texts: held-out texts for reconstruction and cross-entropy; 100,000 tokens give CE recovered to about .001.
        tasks: for sparse probing; none: no probing.
        ks: how many latents, and neurons, a sparse probe may read.
        max_tokens: texts are cut there. batch_size: texts in one forward pass.

    Raises:
        ValueError: the SAE has no hook point of this model, or is a transcoder; texts of one token.

    >>> print(benchmark(lm, sae, held_out_texts))  # doctest: +SKIP
    """
    ks = [whole("ks", k, least=1) for k in ks]
    ((point, _),) = placed(model, sae)
    found = evaluate(sae, stream(model, texts, point.name, context=max_tokens, pack=False))
    (kept,) = model_quality(
        model, sae, texts, positions=["kept"], batch_size=batch_size, max_tokens=max_tokens
    ).rows
    probed: list[Probed] = []
    read: Sequence[Prompt] | None = None
    for task in tasks:
        if read is None or list(read) != list(task.texts):  # labels of the same texts are read once
            read = task.texts
            means = _means(model, sae, point.name, read, max_tokens, batch_size)
        probed += _probe(task, means, ks)
    return Card(
        point.name,
        repr(sae),
        _tokens_trained(sae),
        found,
        kept,
        float((found.density > DENSE).mean()),
        probed,
    )


def _tokens_trained(sae: SAE) -> int | None:
    config = sae.metadata.get("train_config")  # this package's
    value = config.get("n_tokens") if isinstance(config, dict) else sae.metadata.get("training_tokens")
    return value if isinstance(value, int) else None


def _means(
    model: LanguageModel, sae: SAE, hook: str, texts: Sequence[Prompt], max_tokens: int, batch_size: int
) -> dict[str, NDArray[np.float32]]:
    """Units -> (texts, units) means over a text's tokens, its first left out (alone, it is all there is)."""
    sequences = [token_ids(text, model.tokenizer)[:max_tokens] for text in texts]
    shapes = {"latents": sae.d_sae, "neurons": sae.d_in}
    means = {units: np.empty((len(texts), n), np.float32) for units, n in shapes.items()}
    for batch in prompt_rows(model, sequences, hook, batch_size=batch_size):
        for index, rows in zip(batch.index, batch.rows, strict=True):
            tokens = rows[1:] if len(rows) > 1 else rows
            means["neurons"][index] = tokens.mean(0)
            means["latents"][index] = np.asarray(sae.encode(tokens).mean(axis=0)).ravel()
    return means


def _probe(task: Labelled, means: dict[str, NDArray[np.float32]], ks: Sequence[int]) -> list[Probed]:
    labels, held = np.asarray(task.labels, bool), np.asarray(task.held_out, bool)
    chance = float(max(labels[held].mean(), 1 - labels[held].mean()))

    def measured(probe: Probe, units: str, k: int | None) -> Probed:
        scores = probe(means[units][held])
        accuracy = float(((scores > 0) == labels[held]).mean())
        area = float(auroc(scores, labels[held]))
        return Probed(task.name, units, k, area, accuracy, chance, probe.columns if k else ())

    probes = [
        measured(sparse_probe(means[units][~held], labels[~held], k), units, k)
        for k in ks
        for units in ("latents", "neurons")
    ]
    dense = dense_probe(means["neurons"][~held], labels[~held])
    return [*probes, measured(dense, "neurons", None)]
