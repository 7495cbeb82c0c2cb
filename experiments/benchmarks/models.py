"""Models with random weights."""

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM


def qwen2(
    tokenizer: PreTrainedTokenizerBase,
    width: int,
    layers: int,
    heads: int,
    seed: int,
    key_heads: int | None = None,
    feed_forward: int | None = None,
    vocabulary: int | None = None,
) -> Qwen2ForCausalLM:
    """A Qwen2 for texts of up to 1,024 tokens, whose output matrix is its embeddings.

    Args:
        tokenizer: Knows its special tokens.
        width: Of its hidden states.
        layers: Its depth.
        heads: Its attention heads.
        seed: Of its weights.
        key_heads: Heads of keys and values; by default as many.
        feed_forward: Width of its feed-forward layers; by default three times that of its hidden states.
        vocabulary: Tokens it knows; by default those of the tokenizer.
    """
    config = Qwen2Config(
        vocab_size=vocabulary or len(tokenizer),
        hidden_size=width,
        intermediate_size=feed_forward or 3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads or heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(config)
