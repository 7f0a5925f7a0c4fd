"""One refund refused, its twin approved: which features make the difference, and what happens without them.

A small set of transcoders is trained on the model first (a few minutes, kept in --set); see docs/circuits.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sparse_sae.circuits import LogitDifference, attribute, train_set, write_page
from sparse_sae.demo.tickets import tickets
from sparse_sae.lm import english_documents, load_model

LAYERS = [6, 9, 12, 15, 18, 21]
PROMPT = (
    "The shop refunds parcels that come late.\n\nCustomer: My order came on time.\nRefund: No\n\n"
    "Customer: My order came two weeks late.\nRefund: Yes\n\nCustomer: My parcel came {}.\nRefund:"
)
WORDS = {"refused": "quickly", "approved": "late"}


def texts() -> Iterator[str]:
    """English text, and tickets that were answered by a rule."""
    answered = (
        f"Customer: {t.text}\nRefund: {'Yes' if t.labels['shipping_delay'] else 'No'}" for t in tickets(2000, seed=1)
    )
    for document in english_documents():
        yield document
        yield "\n\n".join(islice(answered, 6))
