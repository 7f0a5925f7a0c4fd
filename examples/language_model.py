"""Which feature of a language model did it, and what happens when it is turned up: minutes, with the extra `lm`.

python examples/language_model.py work-directory
"""

import sys
from pathlib import Path

import sparse_sae
from sparse_sae.lm import capture, english_documents, explain, generate, load_model, steer
from sparse_sae.probing import top_contexts

QUESTION = "My parcel is three weeks late and I want my money back. Can I get a refund?"
ANSWER = "Unfortunately, refunds are not available."


def main(work, lm=None, hook="blocks.15.hook_resid_post", tokens=60_000, d_sae=2304, texts=None, prompt=None):
    lm = lm or load_model()  # SmolLM2-135M-Instruct, fetched once
    prompt = prompt or [{"role": "user", "content": QUESTION}]
    store = capture(lm, texts or english_documents(), hook, Path(work) / "activations", max_tokens=tokens)
    rows, held_out = store.split(0.1)
    metadata = {"model_name": lm.name, "hook_name": hook}
    sae = sparse_sae.train(
        rows, sparse_sae.TopK(k=32), d_sae=d_sae, n_tokens=4 * len(rows), metadata=metadata, progress=False
    ).sae
    print(sparse_sae.evaluate(sae, held_out))

    found = explain(lm, sae, prompt, ANSWER, top=10)  # ranked by what ablating each latent changes
    print(found)
    latent = found.effects[0].latent
    for context in top_contexts(sae, rows, [latent], n=5)[latent]:
        print(f"{context.value:8.1f}  {context.text(lm.tokenizer)}")
    strongest = max(place.activation for place in found.effects[0].places)
    for value in (-strongest, 0.0, strongest):
        with steer(lm, sae, {latent: value}):
            print(f"{value:+8.1f}  {generate(lm, prompt, max_new_tokens=24)}")
    return found


if __name__ == "__main__":
    main(sys.argv[1])
