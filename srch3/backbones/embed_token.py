"""Adding the embed token to a model that has never seen it."""

from typing import Any, cast

import torch
from jaxtyping import Float
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def add_embed_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, token: str, seed: int = 0) -> int:
    """Makes ``token`` one special token of the tokenizer and gives it a row in the embedding matrices.

    The matrices only ever grow: several families pad them beyond the tokenizer's length, and shrinking would throw
    trained rows away. The new row is the mean of the others plus a seeded perturbation of a tenth of their spread, so
    that two runs start alike. A token that the tokenizer already knows keeps its row.

    Args:
        model: A causal LM whose matrices are changed in place.
        tokenizer: Its tokenizer, changed in place.
        token: The text of the token.
        seed: Seed of the row's perturbation.

    Returns:
        The token's id.
    """
    known = tokenizer.get_vocab()
    if token not in known:
        tokenizer.add_special_tokens({"additional_special_tokens": [token]}, replace_extra_special_tokens=False)
    token_id = int(tokenizer.get_vocab()[token])
    if token in known:
        return token_id
    rows = len(embedding_matrix(model))
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    matrix = embedding_matrix(model)
    _set_row(matrix, token_id, min(token_id, rows), seed)
    if output := own_output(model):
        _set_row(_matrix(output), token_id, min(token_id, rows), seed)
    return token_id


def embedding_matrix(model: PreTrainedModel) -> Float[Tensor, "vocabulary dim"]:
    """The rows of the input embedding; where an adapter trains one of them, as they were without it."""
    return _matrix(model.get_input_embeddings())


def trained_embedding(model: PreTrainedModel) -> Float[Tensor, "rows dim"]:
    """What of the input embedding is trained: the whole matrix, or with adapters the embed token's row alone."""
    embedding: Any = model.get_input_embeddings()
    if isinstance(embedding, TrainableTokensWrapper):
        (row,) = embedding.token_adapter.trainable_tokens_delta.values()
        return cast(Tensor, row)
    return _matrix(embedding)


def own_output(model: PreTrainedModel) -> nn.Module | None:
    """The output layer, where its matrix is one of its own and not that of the input embedding."""
    output: Any = model.get_output_embeddings()
    if output is None or _matrix(output) is embedding_matrix(model):
        return None
    return cast(nn.Module, output)


def _matrix(layer: Any) -> Tensor:
    matrix: Tensor = getattr(layer, "original_module", layer).weight
    return matrix


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Every special token, also those that mark a turn and have no name in the tokenizer's settings."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}


@torch.no_grad()
def _set_row(matrix: Tensor, row: int, trained_rows: int, seed: int) -> None:
    trained = matrix[:trained_rows].float()
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(matrix.shape[1], generator=generator, device="cpu", dtype=torch.float32).to(matrix.device)
    matrix[row] = (trained.mean(0) + 0.1 * trained.std(0) * noise).to(matrix.dtype)
