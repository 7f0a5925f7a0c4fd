"""What needs the model: latents of a text, which of them made a token, and steering beside its controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from sparse_sae.browser.building import fingerprint_of_sae
from sparse_sae.browser.file import BrowserFile
from sparse_sae.browser.vocabulary import texts_of

LONGEST = 512  # tokens of a text or prompt
MOST_NEW = 128  # tokens generated
SHOWN = 64  # latents sent for one token
EXPLAINED = 12  # latents ablated to find which made a token
MODES = ("add", "ablate")


class Live:
    """A model and an SAE, for one caller at a time.

    Args:
        model: a `LanguageModel`. sae: the SAE that the file was built from. file: the file.

    Raises:
        ValueError: another SAE than the file's, or one that does not fit the model.
    """

    def __init__(self, model: Any, sae: Any, file: BrowserFile) -> None:
        from sparse_sae.lm.model.pairing import hook_of

        if fingerprint_of_sae(sae) != file.meta["sae_fingerprint"]:
            raise ValueError(
                f"sae: not the one that {file.path} was built from; give that one, or build the file again"
            )
        self._model, self._sae, self._file = model, sae, file
        self._hook = hook_of(model, sae, file.meta["hook_name"] or None).name
        # where the file has only numbers, the model's tokenizer knows more
        self._texts = file.texts if file.meta["text"] else texts_of(model.tokenizer)

    @property
    def abilities(self) -> dict[str, bool]:
        """What can be asked for."""
        own = self._sae.kind == "sae" and self._sae.transform.is_identity
        return {"text": True, "steer": True, "ablate": own, "explain": own}

    def _place(self, mode: Any) -> Any:
        """Where an edit goes: decoder rows are added where a transcoder writes, all else is where the SAE reads."""
        return None if mode == "add" and self._sae.metadata.get("hook_name_out") else self._hook

    def _ids(self, text: object, chat: object) -> list[int]:
        from sparse_sae.lm.model.prompts import token_ids

        if not isinstance(text, str) or not text.strip():
            raise ValueError("text: empty; expected a few words")
        if chat and not getattr(self._model.tokenizer, "chat_template", None):
            raise ValueError("chat: this model's tokenizer has no chat template; switch it off")
        ids = token_ids([{"role": "user", "content": text}] if chat else text, self._model.tokenizer)
        if len(ids) > LONGEST:
            raise ValueError(f"text: {len(ids)} tokens, expected at most {LONGEST}")
        return ids

    def text(self, text: object, chat: object = False) -> dict[str, Any]:
        """{"tokens": [{"id", "text", "usable", "active": [[latent, activation], …], "more"}], "latents": {…}}.

        A token is not `usable` where SAEs are not trained: the first position and massive activations.
        """
        import torch

        from sparse_sae.data.store import massive_threshold
        from sparse_sae.lm import read_hooks

        ids = self._ids(text, chat)
        with torch.inference_mode():
            seen = read_hooks(self._model, [self._hook], torch.tensor([ids]))[self._hook]
        x = seen[0].float().numpy()
        codes = self._sae.encode(x)
        norms = np.linalg.norm(x, axis=1)
        limit = massive_threshold(norms[1:]) if len(norms) > 1 else np.inf
        tokens, named = [], set()
        for i, token in enumerate(ids):
            part = slice(codes.indptr[i], codes.indptr[i + 1])
            order = np.argsort(-np.abs(codes.data[part]), kind="stable")[:SHOWN]
            latents, values = codes.indices[part][order].tolist(), codes.data[part][order].tolist()
            named |= set(latents)
            tokens.append(
                {
                    "id": token,
                    "text": self._texts[token] if token < len(self._texts) else f"⟨{token}⟩",
                    "usable": i > 0 and bool(norms[i] <= limit),
                    "active": [[j, round(v, 3)] for j, v in zip(latents, values, strict=True)],
                    "more": int(part.stop - part.start - len(order)),
                }
            )
        return {"tokens": tokens, "latents": self._named(sorted(named))}

    def _named(self, latents: list[int]) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for start in range(0, len(latents), 500):
            for j, row in self._file.brief(latents[start : start + 500]).items():
                found[j] = {
                    "label": row["note"] or row["label"],
                    "maximum": round(row["maximum"], 3),
                    "density": round(row["density"], 6),
                }
        return found

    def explain(self, ids: object, position: object) -> dict[str, Any]:
        """Which latents at earlier positions made the token at `position` more or less probable, by ablation."""
        from sparse_sae.lm import explain

        known = isinstance(ids, list) and all(type(i) is int for i in ids) and len(ids) <= LONGEST
        if not known or type(position) is not int or not isinstance(ids, list):
            raise ValueError(f"ids, position: expected up to {LONGEST} token numbers and a place among them")
        if not 2 <= position < len(ids):
            raise ValueError(
                "position: choose the third token or a later one; nothing usable comes before it"
            )
        found = explain(self._model, self._sae, ids[:position], ids[position], top=EXPLAINED, hook=self._hook)
        effects = [e for e in found.effects if e.ablation is not None]
        return {
            "target": found.target,
            "value": found.value,
            "agreement": found.agreement,
            "latents_estimate": sum(e.estimate for e in found.effects),
            "error_estimate": found.error_estimate,
            "bias_estimate": found.bias_estimate,
            "active": len(found.effects),
            "effects": [
                {
                    "id": e.latent,
                    "ablation": e.ablation,
                    "estimate": e.estimate,
                    "places": [[p.position, p.activation] for p in e.places[:5]],
                }
                for e in effects
            ],
            "latents": self._named([e.latent for e in effects]),
        }

    def steer(
        self,
        text: object,
        latent: int,
        mode: Any,
        strength: object,
        n: object,
        chat: object = False,
        seed: int = 0,
    ) -> Iterator[dict[str, Any]]:
        """Greedy texts token by token: unedited, steered, and with a random direction of the same norm.

        Args:
            mode: "add" adds `strength` times the latent's decoder row at every position, and beside it a random
                direction of the same length; "ablate" takes out `strength` times its activation, and beside it
                `strength` times the component along a random direction.

        Yields:
            {"texts": [unedited, steered, random], "done": bool}; the texts so far.
        """
        import torch

        from sparse_sae.lm import steer, steer_direction

        if mode not in MODES or not (mode == "add" or self.abilities["ablate"]):
            raise ValueError(
                f"mode: got {mode!r}, expected add, or ablate where the SAE reads and writes one place"
            )
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not abs(strength) < 1e6:
            raise ValueError(f"strength: got {strength!r}, expected a number")
        if type(n) is not int or not 1 <= n <= MOST_NEW:
            raise ValueError(f"new tokens: got {n!r}, expected 1 to {MOST_NEW}")
        if not 0 <= latent < self._sae.d_sae:
            raise ValueError(f"latent: got {latent}, expected 0 to {self._sae.d_sae - 1}")
        ids = self._ids(text, chat)
        direction = np.random.default_rng([seed, latent]).standard_normal(self._sae.d_out).astype(np.float32)
        size = float(np.linalg.norm(self._sae.rows["W_dec"][latent])) if mode == "add" else 1.0
        direction *= size / np.linalg.norm(direction)
        values = {latent: [0.0, float(strength), 0.0]}
        along: Literal["add", "orthogonal"] = "add" if mode == "add" else "orthogonal"
        edit = steer(self._model, self._sae, values, mode, hook=self._place(mode))
        control = steer_direction(self._model, edit.point, direction, [0.0, 0.0, float(strength)], along)
        module, tokenizer = self._model.model, self._model.tokenizer
        step_ids, cache = torch.tensor([ids] * 3), None
        out: list[list[int]] = [[], [], []]
        ended = [False] * 3
        end = tokenizer.eos_token_id
        for count in range(n):
            # opened and closed in each step: the next one may run in another thread
            with torch.inference_mode(), edit, control:
                result = module(input_ids=step_ids, past_key_values=cache, use_cache=True)
                cache = result.past_key_values
                chosen = result.logits[:, -1].argmax(-1)
            for row, token in enumerate(chosen.tolist()):
                ended[row] = ended[row] or token == end
                if not ended[row]:
                    out[row].append(token)
            step_ids = chosen[:, None]
            done = all(ended) or count == n - 1
            yield {"texts": [tokenizer.decode(row) for row in out], "done": done}
            if done:
                return
