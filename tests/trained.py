"""A trained model as users have it: a folder with ``srch3.json``; its thoughts end at different times."""

from pathlib import Path
from typing import Any

import torch

from srch3.backbones import ReasoningEmbedder, generate
from tests.toy import WORDS, toy_embedder

SHORT = {"max_query_tokens": 8, "max_document_tokens": 12, "max_thought_tokens": 8}


def trained_embedder(folder: Path, seed: int = 0, **settings: Any) -> ReasoningEmbedder:
    """A built model whose embed token is likely where some of its other tokens were; its base is in ``folder``."""
    embedder = toy_embedder(folder, **{**SHORT, "seed": seed, **settings})
    embedder.build()
    embedder.eval()
    thoughts = generate(embedder, embedder.tokenize(WORDS[:6], "thinking"), temperature=0.0).completions.inputs
    rows: Any = embedder.causal_lm.get_input_embeddings().weight
    noise = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        told = sum(rows[tokens[min(place, len(tokens) - 1)]] for place, tokens in enumerate(thoughts, start=1))
        rows[embedder.embed_token_id] = 0.4 * told + 0.01 * noise
    return embedder


def trained_folder(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Writes such a model, and its base beside it."""
    trained_embedder(folder.with_name(f"{folder.name}-base"), seed, **settings).save_pretrained(folder)
    return folder
