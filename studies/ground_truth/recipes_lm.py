"""The recipes of recipes.py put into the language model, and the one that trains there: KL + MSE at the end.

A short end-to-end finetune (Karvonen 2025, arXiv 2503.17272): an SAE trained to reconstruct is trained on with the loss
(MSE + KL(model ‖ model with the reconstruction)) / 2, the KL being scaled at every step to the size of the MSE.
"""

import time
from itertools import islice

import numpy as np
import torch

from sparse_sae import SAE
from sparse_sae.lm import english_documents, load_model
from sparse_sae.lm.model.hooks import resolve, unwrap
from sparse_sae.lm.model.prompts import batches, logits_of, token_ids
from sparse_sae.lm.steering.reconstruction import reconstruction
from sparse_sae.lm.studies.quality import loss_recovered, usual_activations
from sparse_sae.lm.studies.reuse import reuse_below
from sparse_sae.lm.studies.scores import score_texts

FAR = 2000  # documents before this one may have been trained on; those from here on are measured on
WINDOW = 128  # tokens of a piece of text
RATE = 3e-4  # of the finetune, falling to 0


class InModel:
    """A model and a hook point, with pieces of English to measure and to train on.

    Args:
        hook: where reconstructions are put.
        by: rows are multiplied by this before an SAE reads them.
        tokens: to measure on.
    """

    def __init__(self, hook, by, tokens):
        self.lm = load_model()
        self.point, self.by = resolve(self.lm, hook), float(by)
        unwrap(self.lm).requires_grad_(False)
        self.texts = list(islice(self.pieces(FAR), -(-tokens // WINDOW)))
        self.usual = usual_activations(self.lm, self.point, self.texts, 8)

    def pieces(self, start):
        """Whole windows of token ids, of the documents from this one on."""
        for text in islice(english_documents(), start, None):
            ids = token_ids(text, self.lm.tokenizer)
            for at in range(0, len(ids) - WINDOW + 1, WINDOW):
                yield ids[at : at + WINDOW]

    def stays(self, x):
        """The positions that training leaves out: first ones and massive activations."""
        stays = x.norm(dim=-1) > self.usual.limit
        stays[:, 0] = True
        return stays

    def replacing(self, fill):
        """A context in which fill(x) stands in the place of x, wherever training has looked."""

        def replaced(x):
            return torch.where(self.stays(x)[..., None], x, fill(x))

        return lambda: self.point.attach(replaced)

    def scores(self, saes):
        """name -> CE, KL and the share of the loss between the mean activation and the model that is recovered."""
        mean = torch.from_numpy(self.usual.mean)
        edits = {"mean": self.replacing(lambda x: mean.expand_as(x))}
        for name, sae in saes.items():
            edits[name] = self.replacing(lambda x, sae=sae: reconstruction(sae, x * self.by) / self.by)
        with reuse_below(self.lm, self.point):
            found = score_texts(self.lm, self.texts, edits, batch_size=8, max_tokens=WINDOW)
        plain, ablated = found["unedited"].loss, found["mean"].loss
        rows = {
            name: {
                "ce": found[name].loss,
                "kl": found[name].kl,
                "recovered_mean": loss_recovered(plain, found[name].loss, ablated),
                "kl_by_text": (found[name].kl_by_text / found[name].tokens).round(4).tolist(),
            }
            for name in saes
        }
        tokens = int(found["unedited"].tokens.sum())
        return rows, {"tokens": tokens, "ce": plain, "ce_mean": ablated, "kl_mean": found["mean"].kl}

    def finetuned(self, sae, tokens, size=4):
        """The SAE after so many tokens of KL + MSE, and the CPU seconds it took."""
        started = time.process_time()
        weights = {name: torch.tensor(value, requires_grad=True) for name, value in sae.params.items()}
        optimizer = torch.optim.Adam(weights.values(), lr=RATE)
        steps = max(1, tokens // (size * WINDOW))
        pieces = list(islice(self.pieces(0), steps * size))
        order = np.random.default_rng(0).permutation(len(pieces))
        with torch.no_grad():
            self._check(weights, sae)
        for step in range(steps):
            some = [pieces[i] for i in order[step * size : (step + 1) * size]]
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / steps)
            optimizer.zero_grad()
            for batch in batches(some, size):
                self._loss(weights, sae.activation.k, batch).backward()
            optimizer.step()
        trained = {name: value.detach().numpy() for name, value in weights.items()}
        result = SAE.from_rows(trained, sae.activation, apply_b_dec_to_input=sae.apply_b_dec_to_input)
        return result, time.process_time() - started

    def _check(self, weights, sae):
        """Hold `decoded` against the SAE itself, on activations."""
        x = torch.from_numpy(self.usual.mean * self.by) + torch.randn(64, sae.d_in) / sae.d_in**0.5
        theirs, ours = reconstruction(sae, x), decoded(weights, x, sae.activation.k)
        assert torch.allclose(theirs, ours, atol=1e-4), float((theirs - ours).abs().max())

    def _loss(self, weights, k, batch):
        module, seen = unwrap(self.lm), []
        with torch.no_grad(), self.point.attach(lambda x: (seen.append(x), x)[1]):
            wanted = logits_of(module, batch.ids, attention_mask=batch.mask).logits.log_softmax(-1)
        (x,) = seen
        x, stays = x * self.by, self.stays(x)
        found = decoded(weights, x, k)
        new = torch.where(stays[..., None], x, found) / self.by
        with self.point.attach(lambda _: new):
            got = logits_of(module, batch.ids, attention_mask=batch.mask).logits.log_softmax(-1)
        kl = (wanted.exp() * (wanted - got)).sum(-1)[:, :-1].mean()
        kept = x[~stays]
        mse = ((found[~stays] - kept) ** 2).sum() / ((kept - kept.mean(0)) ** 2).sum()
        return (mse + kl * (mse / kl).detach()) / 2


def decoded(weights, x, k):
    """What a TopK SAE makes of x (…, d), with the gradient through its codes; a latent is a row of both matrices."""
    pre = (x - weights["b_dec"]) @ weights["W_enc"].T + weights["b_enc"]
    best = pre.topk(k, dim=-1)
    codes = torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())
    return codes @ weights["W_dec"] + weights["b_dec"]
