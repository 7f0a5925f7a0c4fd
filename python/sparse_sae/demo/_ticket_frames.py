"""What stands around the labelled sentences of a support ticket: products, greetings, amounts, endings."""

from __future__ import annotations

PRODUCTS = [
    "lamp", "watch", "jacket", "chair", "rug", "coat", "painting", "necklace", "bag", "mirror", "vase",
    "clock", "table", "ring", "carpet", "bracelet", "cabinet", "scarf", "desk", "statue",
]  # fmt: skip

GREETINGS = {
    "train": [
        "Hello,",
        "Hi there,",
        "Good morning,",
        "Dear support team,",
        "Hi,",
        "To whom it may concern,",
        "",
    ],
    "held_out": ["Good evening,", "Dear customer service,", "Hey,", "Good afternoon,", "Greetings,", ""],
}

INTRODUCTIONS = {
    "train": [
        "I am writing about order {order}, a {product}.",
        "my order number is {order} and it is for a {product}.",
        "this is about the {product} from order {order}.",
        "I bought a {product} from you under order {order}.",
        "please look at order {order}, the {product}.",
        "regarding order {order}: I chose the {product}.",
        "I have a question on order {order}, which was for a {product}.",
    ],
    "held_out": [
        "a while ago I placed order {order} with you for a {product}.",
        "could someone check {order}? It contains one {product}.",
        "my reference is {order}, item: {product}.",
        "I am a customer of yours and got a {product}, reference {order}.",
        "reference {order} concerns the {product} on my account.",
    ],
}

ENDINGS = {
    "train": [
        "",
        "",
        "Let me know.",
        "I will be reachable by mail.",
        "Please answer soon.",
        "Awaiting your reply.",
    ],
    "held_out": ["", "", "Write me back.", "You can also call me.", "Tell me what happens next."],
}

HIGH_AMOUNTS = {
    "train": [
        "$1,850", "$2,400", "$3,120", "$4,999", "about two thousand dollars", "over three thousand dollars",
        "$1,299", "$5,640", "$2,075", "nearly five thousand dollars", "$3,780", "$1,640",
    ],
    "held_out": [
        "$2,290", "$4,350", "$1,730", "close to four thousand dollars", "$3,405", "above three thousand",
        "$6,120", "$1,985",
    ],
}  # fmt: skip
LOW_AMOUNTS = {
    "train": [
        "$18", "$24", "$31.50", "$9.99", "about twenty dollars", "some thirty dollars", "$12.99",
        "$27", "$20.75", "nearly fifteen dollars", "$37.80", "$16.40",
    ],
    "held_out": [
        "$22.90", "$13", "$17.30", "close to ten dollars", "$34.05", "barely twenty-five dollars",
        "$8.50", "$19.85",
    ],
}  # fmt: skip

# (label, holds) -> split -> sentences
