"""The backbone: a causal LM that can think about a query and then emit its embedding."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from peft import prepare_model_for_kbit_training
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from srch3.backbones.batching import length_batches, pad
from srch3.backbones.caching import recomputed
from srch3.backbones.completions import Completions, Scored
from srch3.backbones.embed_token import add_embed_token, embedding_matrix, own_output
from srch3.backbones.export import save_plain
from srch3.backbones.loading import Attention, Dtype, load_causal_lm
from srch3.backbones.logits import next_token_logits
from srch3.backbones.lora import LoRA
from srch3.backbones.prompts import BasePrompts, ChatPrompts, Role
from srch3.backbones.quantization import ARGUMENT, Quantization, keep_frozen_out_of_checkpoints
from srch3.backbones.reference import RememberedWeights
from srch3.backbones.tokenization import PromptTokenizer, Tokens, Truncation, choose_chat_template
from srch3.errors import ConfigError
from srch3.functional.similarity import normalise

__all__ = ["Completions", "ReasoningEmbedder", "Scored", "Tokens"]


class ReasoningEmbedder(nn.Module):
    """A causal LM whose embedding of a text is the last hidden state at the embed token (Search-R3, arXiv 2510.07048).

    Queries may think: the model writes a thought and then the embed token. Documents, and queries in direct mode, are
    followed by a fixed phrase and the embed token. The embedding has the model's own width, is normalised in float32,
    and does not depend on padding, on the order of a batch or on its size.

    Nothing is loaded before ``build`` is called, which Lightning's ``configure_model`` does.

    Args:
        model: Folder or hub name of the causal LM (Qwen2.5-Instruct, Qwen3, Llama, Mistral, Gemma, GPT-2 …).
        prompts: How queries and documents are put before the model.
        embed_token: Text of the special token at which the embedding is read.
        max_query_tokens: A query's tokens beyond these are dropped; the prompt around it never is.
        max_document_tokens: The same for a document.
        max_thought_tokens: Longest thought, embed token included; a longer one is cut off, and the token forced.
        truncation: Which end of a too long text is dropped: ``right`` keeps its beginning, ``left`` its end.
        tokens_per_batch: Budget of one forward pass when encoding, padding included.
        dtype: Type of the weights. For mixed precision leave float32 and set ``trainer.precision``; weights in half
            precision round small updates away, and are for use with ``lora`` or without training.
        attn_implementation: Implementation of attention; by default the best that the model supports.
        gradient_checkpointing: Recompute activations in the backward pass, for less memory.
        lora: Train low-rank adapters in place of all weights.
        quantization: Hold frozen weights in four bits (``nf4``) or eight (``int8``); with ``lora``, on an NVIDIA GPU.
        seed: Seed of the embed token's first row and of fresh adapters.
        chat_template: Name of the chat template that prompts are put into, where the tokenizer has several.
    """

    def __init__(
        self,
        model: str,
        prompts: BasePrompts | None = None,
        embed_token: str = "<|embed_token|>",
        max_query_tokens: int = 128,
        max_document_tokens: int = 256,
        max_thought_tokens: int = 64,
        truncation: Truncation = "right",
        tokens_per_batch: int = 8192,
        dtype: Dtype = "float32",
        attn_implementation: Attention | None = None,
        gradient_checkpointing: bool = False,
        lora: LoRA | None = None,
        quantization: Quantization | None = None,
        seed: int = 0,
        chat_template: str | None = None,
    ) -> None:
        super().__init__()
        limits = {"query": max_query_tokens, "document": max_document_tokens, "thought": max_thought_tokens}
        for name, limit in limits.items():
            if limit < 1:
                raise ConfigError(
                    f"model.init_args.backbone.init_args.max_{name}_tokens: expected at least 1, got {limit}"
                )
        if not embed_token.strip():
            raise ConfigError(
                f"model.init_args.backbone.init_args.embed_token: expected the text of a token, got {embed_token!r}"
            )
        if quantization and lora is None:
            raise ConfigError(
                f"{ARGUMENT}: expected `lora: LoRA` beside {quantization!r}, got none; add it, since quantised weights "
                "cannot be trained themselves"
            )
        self.name = model
        self.prompts = prompts or ChatPrompts()
        self.embed_token = embed_token
        self.max_query_tokens = max_query_tokens
        self.max_document_tokens = max_document_tokens
        self.max_thought_tokens = max_thought_tokens
        self.truncation: Truncation = truncation
        self.tokens_per_batch = tokens_per_batch
        self.dtype: Dtype = dtype
        self.attn_implementation = attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.lora = lora
        self.quantization: Quantization | None = quantization
        self.seed = seed
        self.chat_template = chat_template
        self.model: PreTrainedModel | None = None
        self._remembered: RememberedWeights | None = None

    def build(self) -> None:
        """Loads the model and adds the embed token; does nothing the second time.

        Raises:
            ModelError: The model or its tokenizer cannot serve.
            ConfigError: A prompt can be longer than the model reads, or a setting does not suit model or machine.
        """
        if self.model is not None:
            return
        model, tokenizer = load_causal_lm(
            self.name, self.dtype, self.attn_implementation, self.truncation, self.quantization
        )
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        choose_chat_template(tokenizer, self.chat_template)
        self.embed_token_id = add_embed_token(model, tokenizer, self.embed_token, self.seed)
        self.stop_ids = self._stop_ids(model)
        limits: dict[Role, int] = dict.fromkeys(("thinking", "direct"), self.max_query_tokens)
        limits |= dict.fromkeys(("document", "thinking_document"), self.max_document_tokens)
        self.prompt_tokenizer = PromptTokenizer(tokenizer, self.prompts, self.embed_token, limits)
        self.window: int | None = getattr(model.config, "max_position_embeddings", None)
        self.prompt_tokenizer.check_window(self.window, self.max_thought_tokens)
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if self.quantization:
            prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
            keep_frozen_out_of_checkpoints(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = self.lora.apply(model, self.embed_token_id) if self.lora else model
        self.train()

    def _stop_ids(self, model: PreTrainedModel) -> list[int]:
        configured = model.generation_config.eos_token_id if model.generation_config else None
        ends = configured if isinstance(configured, list) else [configured]
        candidates = {*ends, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
        return sorted({*(int(token) for token in candidates if token is not None), self.embed_token_id})

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The model, which must have been built."""
        if self.model is None:
            raise RuntimeError("call build() before using a ReasoningEmbedder")
        return self.model

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return embedding_matrix(self.causal_lm).shape[1]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return embedding_matrix(self.causal_lm).device

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        """Prompts as tokens; all but ``thinking`` ones end with the embed token.

        Only the text is ever truncated, so neither the instruction nor the embed token can be lost. Special tokens that
        occur in a text are taken out of it.
        """
        return self.prompt_tokenizer.tokenize(texts, role)

    def overlong(self, texts: Sequence[str], role: Role) -> list[bool]:
        """Which texts :meth:`tokenize` would truncate."""
        return self.prompt_tokenizer.overlong(texts, role)

    def tokenize_thoughts(self, thoughts: Sequence[str]) -> Completions:
        """Given thoughts as completions of thinking prompts, each ending with the embed token."""
        tokens = self.prompt_tokenizer.thoughts(thoughts, self.max_thought_tokens - 1)
        inputs = [[*ids, self.embed_token_id] for ids in tokens]
        return Completions(inputs, inputs, [[True] * len(ids) for ids in inputs])

    def decode_thought(self, tokens: Tokens) -> str:
        """The text of a completion, without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def hidden_states(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Float[Tensor, "batch seq dim"]:
        """Last hidden states, after the final norm."""
        output = self.causal_lm.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens vocabulary"]:
        """Next-token logits, float32, of the given hidden states alone."""
        return next_token_logits(self.causal_lm, hidden)

    def embed(
        self,
        sequences: Sequence[Tokens],
        on_progress: Callable[[int], None] | None = None,
        cache_tokens: int | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Unit-length embeddings at the last embed token of each sequence, in the order given.

        Sequences of like length share a forward pass. Gradients flow unless the caller turned them off.

        Args:
            sequences: Prompts as tokens.
            on_progress: Called with the number of sequences after each pass.
            cache_tokens: Tokens, padding included, of a pass whose activations are kept for gradients; the passes are
                then computed again in the backward pass. By default all activations are kept.
        """
        parts, order = [], []
        for batch in length_batches([len(sequence) for sequence in sequences], cache_tokens or self.tokens_per_batch):
            some = [sequences[row] for row in batch]
            parts.append(recomputed(partial(self._embed_pass, some), cache_tokens is not None, self.device))
            order.extend(batch)
            if on_progress:
                on_progress(len(batch))
        return torch.cat(parts)[torch.tensor(order).argsort().to(self.device)]

    def _embed_pass(self, sequences: list[Tokens]) -> Float[Tensor, "batch dim"]:
        ids, mask, positions = pad(sequences, self.pad_id, "right", self.device)
        return normalise(self._at_embed_token(ids, self.hidden_states(ids, mask, positions)))

    def _at_embed_token(self, ids: Tensor, hidden: Tensor) -> Float[Tensor, "batch dim"]:
        places = torch.arange(ids.shape[1], device=ids.device)
        last = torch.where(ids == self.embed_token_id, places, -1).max(dim=1).values
        return hidden[torch.arange(len(ids), device=ids.device), last]

    def score(self, prompts: Sequence[Tokens], completions: Completions) -> Scored:
        """One teacher-forced pass: logits where a target is counted, and the embedding of each completion."""
        sequences = [[*prompt, *tokens] for prompt, tokens in zip(prompts, completions.inputs, strict=True)]
        ids, mask, positions = pad(sequences, self.pad_id, "right", self.device)
        hidden = self.hidden_states(ids, mask, positions)
        counted = torch.zeros_like(mask, dtype=torch.bool)
        targets = torch.zeros_like(ids)
        for row, (prompt, tokens, counts) in enumerate(
            zip(prompts, completions.targets, completions.counted, strict=True)
        ):
            place = slice(len(prompt) - 1, len(prompt) - 1 + len(tokens))
            counted[row, place] = torch.tensor(counts, device=ids.device)
            targets[row, place] = torch.tensor(tokens, device=ids.device)
        embeddings = normalise(self._at_embed_token(ids, hidden))
        return Scored(self.logits(hidden[counted]), counted, targets[counted], embeddings)

    @property
    def pad_id(self) -> int:
        """The token that padding is made of."""
        return int(self.tokenizer.pad_token_id)

    def freeze_output(self) -> None:
        """Leaves the output matrix untrained, where it is one of its own and not that of the input embedding."""
        if output := own_output(self.causal_lm):
            output.requires_grad_(False)

    def remember(self) -> None:
        """Keeps a copy of the trainable weights as they are now, for :meth:`as_remembered`."""
        self._remembered = RememberedWeights(self)

    @property
    def remembers(self) -> bool:
        """Whether :meth:`remember` was called."""
        return self._remembered is not None

    def as_remembered(self) -> AbstractContextManager[None]:
        """Within it, the model is the one that :meth:`remember` saw, without gradients: the reference of a KL term."""
        if self._remembered is None:
            raise RuntimeError("call remember() before as_remembered()")
        return self._remembered.in_place(self)

    def remembered_fingerprint(self) -> float:
        """A number that two sets of remembered weights share only if they are the same."""
        return self._remembered.fingerprint if self._remembered else 0.0

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model and its tokenizer as a folder that ``model``, or any other program, can name.

        Adapters are merged into the weights that are written; the live model keeps them. What was written is loaded
        again with plain transformers, and must give the embeddings of the live model.

        Raises:
            ModelError: It does not, and nothing was written; or the folder has content already.
        """
        save_plain(self, Path(folder).absolute())
