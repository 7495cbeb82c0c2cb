"""Documents as tokens up to where their embedding is read."""

from collections.abc import Sequence

from srch3.backbones.generation import generate
from srch3.backbones.reasoning_embedder import ReasoningEmbedder
from srch3.backbones.settings import Documents
from srch3.backbones.tokenization import Tokens


def document_sequences(embedder: ReasoningEmbedder, texts: Sequence[str], documents: Documents) -> list[Tokens]:
    """Prompts of documents, each with the likeliest thought about it where ``documents`` is ``thinking``."""
    if documents == "direct":
        return embedder.tokenize(texts, "document")
    prompts = embedder.tokenize(texts, "thinking_document")
    thoughts = generate(embedder, prompts, temperature=0.0).completions.inputs
    return [[*prompt, *thought] for prompt, thought in zip(prompts, thoughts, strict=True)]
