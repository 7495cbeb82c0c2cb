"""The reward of both sides: it depends on the text alone, so that no index is needed."""

from collections.abc import Sequence


def share_of_vowels(texts: Sequence[str]) -> list[float]:
    """How much of each text are vowels.

    Args:
        texts: What was written.
    """
    return [sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in map(str.strip, texts)]
