"""What is compared: the full recipe of ``sft.yaml``, and one change to it at a time."""

from typing import NamedTuple

from srch3.types import Mode


class Variant(NamedTuple):
    """A change to the full recipe.

    Attributes:
        question: What it asks.
        options: The change, as options of ``python -m srch3 fit``.
        modes: The modes that it trains; the others are measured too, and kept out of the table.
        trained: Whether it is trained at all.
    """

    question: str
    options: str = ""
    modes: tuple[Mode, ...] = ("thinking", "direct")
    trained: bool = True


FULL = "full"
UNTRAINED = "untrained"
MATRYOSHKA = "matryoshka"
_MODEL = "--model.init_args"
_INFO_NCE = f"{_MODEL}.info_nce.init_args"
_THINKING = f"{_MODEL}.train_modes [thinking]"
_DIRECT = f"{_MODEL}.train_modes [direct] {_MODEL}.modes [direct]"

VARIANTS = {
    FULL: Variant("What does the whole recipe reach?"),
    UNTRAINED: Variant("What does the base find before stage 1?", trained=False),
    "no-cross-entropy": Variant(
        "Is learning to write the thought worth it?", f"{_MODEL}.cross_entropy.init_args.weight 0"
    ),
    "no-base-kl": Variant("Is staying near the base worth it?", f"{_MODEL}.base_kl.init_args.weight 0"),
    "no-info-nce": Variant("Does the triplet margin do without InfoNCE?", f"{_INFO_NCE}.weight 0"),
    "no-triplet-margin": Variant(
        "Does the triplet margin add to InfoNCE?", f"{_MODEL}.triplet_margin.init_args.weight 0"
    ),
    "direct-only": Variant("What does a plain bi-encoder reach?", _DIRECT, modes=("direct",)),
    "thinking-only": Variant("Does training direct embedding help thinking?", _THINKING, modes=("thinking",)),
    "thought-dropout": Variant(
        "Is one mode per query, drawn anew each time, as good as both?", f"{_THINKING} {_MODEL}.thought_dropout 0.5"
    ),
    "no-thoughts": Variant("Is it the thoughts, or only the second prompt?", "--data.init_args.thoughts NoThoughts"),
    "false-negative-margin": Variant(
        "Are documents that look more relevant than the positive better left out?",
        f"{_MODEL}.false_negative_margin 0.1",
    ),
    "query-query": Variant("Do the other queries help as negatives?", f"{_INFO_NCE}.query_query true"),
    "document-document": Variant(
        "Do the other documents help as negatives of a document?", f"{_INFO_NCE}.document_document true"
    ),
    MATRYOSHKA: Variant("What do short embeddings cost the whole one?", f"{_INFO_NCE}.widths [32,64]"),
    "temperature-0.02": Variant("Are harder negatives better?", f"{_INFO_NCE}.temperature 0.02"),
    "temperature-0.1": Variant("Are softer negatives better?", f"{_INFO_NCE}.temperature 0.1"),
    "batch-32": Variant(
        "What does a third of the queries per step cost, at equal steps?", "--data.init_args.batch_size 32"
    ),
    "batch-256": Variant(
        "What do more queries per step bring, at equal steps and in fixed memory?",
        f"--data.init_args.batch_size 256 {_MODEL}.cache_tokens 16384",
    ),
}
"""By name. A change must not say what ``sft.yaml`` says already."""

_ONE_EACH = "--data.init_args.negatives 1"
NEGATIVES = {
    "random": Variant("Random documents as negatives, one per query and step.", _ONE_EACH),
    "mined": Variant("Documents that a trained model confuses with the positive, one per query and step.", _ONE_EACH),
    "none": Variant("The documents of the other queries alone."),
}
"""What a query is told from, in the second experiment. Each has the same number of steps."""
