"""A little language: sentences that the tiny model reads, and others that measure what it retains."""

from __future__ import annotations

import random

from pcr_run.task.split import held_out

NOUNS = (
    ["farmer", "child", "teacher", "sailor", "baker", "doctor", "king", "widow", "painter", "miller"],
    ["apple", "letter", "basket", "lamp", "ring", "coat", "drum", "stone", "loaf", "map"],
    ["market", "river", "harbour", "mill", "garden", "tower", "forest", "village", "church", "bridge"],
)
ADJECTIVES = ["old", "young", "tired", "happy", "quiet", "proud", "poor", "clever"]
COLOURS = ["red", "green", "heavy", "small", "broken", "new", "white", "round"]
VERBS = ["carries", "brings", "sells", "shows", "gives", "finds", "hides", "loses"]
TIMES = ("in the morning", "at night", "every day", "before dinner", "in winter", "on Sunday")


def sentence(rng: random.Random) -> str:
    """A sentence of the little language."""
    who, what, where = (rng.choice(nouns) for nouns in NOUNS)
    subject = f"The {rng.choice(ADJECTIVES)} {who}"
    thing = f"a {rng.choice(COLOURS)} {what}"
    place = f"{rng.choice(('near', 'behind', 'at'))} the {where}"
    time = rng.choice(TIMES)
    return rng.choice(
        (
            f"{subject} {rng.choice(VERBS)} {thing} {place} {time}.",
            f"{time.capitalize()} {subject[0].lower()}{subject[1:]} {rng.choice(VERBS)} {thing}.",
            f"{subject} waits {place} and {rng.choice(VERBS)} {thing}.",
        )
    )


def unseen(count: int) -> list[str]:
    """Different held-out sentences, the same ones every time."""
    rng = random.Random("held out")
    found: dict[str, None] = {}
    while len(found) < count:
        if held_out(text := sentence(rng)):
            found[text] = None
    return list(found)
