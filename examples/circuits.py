"""Why one parcel is refunded and its twin is not: the features that make the answer, confirmed by ablation.

python examples/circuits.py work-directory

Transcoders of six layers are trained first (minutes, kept in the directory). docs/circuits.md has the whole story.
"""

import sys
from itertools import islice
from pathlib import Path

from sparse_sae.circuits import LogitDifference, ablated, attribute, features_of, train_set, write_page
from sparse_sae.demo.tickets import tickets
from sparse_sae.lm import choice_logprobs, english_documents, load_model

LAYERS = (6, 9, 12, 15, 18, 21)
PROMPT = (
    "Was the parcel late? Then the shop pays a refund.\n\nCustomer: My order came on time.\nLate (refund): No\n\n"
    "Customer: My order came two weeks late.\nLate (refund): Yes\n\nCustomer: My parcel came {}.\nLate (refund):"
)


def texts():
    """English text, and tickets answered by a rule."""
    answered = (
        f"Customer: {t.text}\nRefund: {'Yes' if t.labels['shipping_delay'] else 'No'}"
        for t in tickets(2000, seed=1)
    )
    for document in english_documents():
        yield document
        yield "\n\n".join(islice(answered, 6))


def main(work, lm=None, layers=LAYERS, words=("quickly", "late"), answers=(" No", " Yes"), **given):
    lm = lm or load_model()  # SmolLM2-135M-Instruct, fetched once
    prompt = given.pop("prompt", PROMPT)
    sizes = {"capture_tokens": 48_000, "n_tokens": 160_000, **given}
    made = train_set(lm, texts, Path(work) / "set", layers=layers, **sizes)
    found = {}
    for word in words:
        whole = attribute(lm, made, prompt.format(word), LogitDifference(*answers), max_features=500)
        found[word] = graph = whole.prune(0.6, 0.9)
        graph.confirm(n_edges=32, n_nodes=16)
        print(f"{word}: {graph}")
        write_page(graph, Path(work) / f"{word}.html", whole=whole, title=f"{word}: {answers[0]}?")
    only = set(features_of(found[words[0]])) - set(features_of(found[words[1]]))
    print(f"features in the graph of {words[0]!r} alone: {sorted(only)}")
    if only:
        for word in words:
            before = choice_logprobs(lm, [prompt.format(word)], answers)[0]
            with ablated(lm, made, sorted(only)):
                after = choice_logprobs(lm, [prompt.format(word)], answers)[0]
            gap, left = before[0] - before[1], after[0] - after[1]
            print(f"{word}: {answers[0]} over {answers[1]} {gap:+.2f}, without them {left:+.2f}")
    return found


if __name__ == "__main__":
    main(sys.argv[1])
