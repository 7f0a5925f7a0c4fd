"""Fixtures that several test files share: a tiny random language model and a random SAE on it."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# No test depends on how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Workers of a parallel run share the cores: one thread each, unless asked otherwise, before anything starts threads.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

WORDS = [
    "the",
    "a",
    "parcel",
    "refund",
    "is",
    "are",
    "not",
    "late",
    "available",
    "order",
    "price",
    "angry",
    "shipping",
    "delay",
    "please",
    "we",
    "can",
    "you",
    "my",
    "money",
    "back",
    "yes",
    "no",
    "and",
    "to",
    "for",
    "in",
    "three",
    "weeks",
    "ago",
    "sorry",
    "approved",
    "refused",
]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Whole words of `WORDS`; a beginning-of-sequence token is not added."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<pad>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>")


@pytest.fixture(scope="session")
def tiny_lm(tiny_tokenizer: Any) -> Any:
    """A random Llama of 3 layers, 32 wide, whose predictions depend on the prompt."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sparse_sae.lm.model.loading import LanguageModel

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=1,
    )
    return LanguageModel(LlamaForCausalLM(config).eval().requires_grad_(False), tiny_tokenizer, "tiny")


@pytest.fixture
def tiny_sae() -> Any:
    """A random TopK SAE for `blocks.1.hook_resid_post` of `tiny_lm`: 64 latents, 8 at a time."""
    import numpy as np

    from sparse_sae.architectures import TopK
    from sparse_sae.sae import SAE

    rows = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    params = {"W_enc": rows, "W_dec": rows.copy(), "b_enc": np.zeros(64), "b_dec": np.zeros(32)}
    return SAE.from_rows(
        {name: value.astype(np.float32) for name, value in params.items()},
        TopK(k=8),
        metadata={"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"},
    )
