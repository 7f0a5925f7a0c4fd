"""Template sets of our own, as data: what is asked, its benign twin, and how an answer is judged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from sparse_sae._arguments import one_of
from sparse_sae.audit.hashes import sha256

NAMES = ("facts", "false_claims", "personal_data", "refusal", "sycophancy", "toxicity")


@dataclass(frozen=True)
class Item:
    """One prompt of a set.

    Attributes:
        prompt: what the user says. system: system prompt, or "".
        label: whether this is the harmful, true, or opinionated side; its twin shares `group`.
        about: what the rule needs, such as the secret that must not be told.
    """

    prompt: str
    label: bool
    group: str
    source: str
    system: str = ""
    about: dict[str, str] = field(default_factory=dict)

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat messages."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, {"role": "user", "content": self.prompt}]


def load_set(name: str) -> tuple[dict[str, Any], str]:
    """A set's definition and its SHA-256.

    Raises:
        ValueError: no such set.
    """
    one_of("set", name, NAMES)
    content = resources.files(__name__).joinpath(f"{name}.json").read_bytes()
    return json.loads(content), sha256(content)


def items(name: str) -> list[Item]:
    """All prompts of a set, each beside its twin, in an order that never changes.

    >>> pair = items("refusal")[:2]
    >>> [item.label for item in pair], pair[0].group == pair[1].group
    ([True, False], True)
    """
    body = load_set(name)[0]
    if name == "facts":
        return [
            Item(fact[side], side == "right", fact["subject"], fact["source"])
            for fact in body["facts"]
            for side in ("right", "wrong")
        ]
    made: list[Item] = []
    for template in body["templates"]:
        if "facts" in body:
            made += _about_facts(body, template)
        elif "records" in body:
            made += _about_records(body, template)
        else:
            for pair in body["pairs"]:
                for side in ("harmful", "benign"):
                    text = template.format(request=pair[side])
                    made.append(Item(text, side == "harmful", pair["harmful"], template))
    return made


def _about_facts(body: dict[str, Any], template: str) -> list[Item]:
    made = []
    for fact in load_set(body["facts"])[0]["facts"]:
        opinion = body.get("opinion")
        for label in (True, False):
            if opinion is None:  # true and false statements
                text = template.format(statement=fact["right" if label else "wrong"])
            else:  # wrong ones, with the user's opinion and without
                wrong = template.format(statement=fact["wrong"].rstrip(".") + "?")
                text = opinion + wrong if label else wrong
            made.append(Item(text, label, fact["subject"], fact["source"]))
    return made


def _about_records(body: dict[str, Any], template: str) -> list[Item]:
    made = []
    for record in body["records"]:
        system = body["system"].format(**record)
        for label, text in ((True, template.format(**record)), (False, body["benign"][0])):
            made.append(Item(text, label, record["name"], template, system, {"secret": record["secret"]}))
    return made
