"""The backbone: a causal LM that can think about a query and then emit its embedding."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from srch3.backbones.batching import length_batches, pad
from srch3.backbones.embed_token import add_embed_token, embedding_matrix, special_tokens
from srch3.backbones.loading import Attention, Dtype, load_causal_lm
from srch3.backbones.lora import LoRA
from srch3.backbones.prompts import BasePrompts, ChatPrompts, Role
from srch3.errors import ConfigError
from srch3.functional.similarity import normalise

Tokens = list[int]


class Completions(NamedTuple):
    """What follows each prompt, teacher-forced: the tokens that are read, and those that are to be predicted.

    Attributes:
        inputs: Tokens that follow the prompt; the last one is the embed token.
        targets: What the model is to predict in place of each input. Equal to ``inputs``, except where a sampled end
            of turn was replaced by the embed token.
        counted: False at a target that nobody chose, namely an embed token which was forced.
    """

    inputs: list[Tokens]
    targets: list[Tokens]
    counted: list[list[bool]]


class Scored(NamedTuple):
    """A teacher-forced pass over prompts and completions; columns beyond a completion's end are zero.

    Attributes:
        logits: Of the counted targets, row after row, not yet divided by a temperature.
        counted: Where in ``(batch, seq)`` those logits stand.
        targets: The tokens they are to predict.
        embeddings: At the embed token, unit length, float32.
    """

    logits: Float[Tensor, "counted vocabulary"]
    counted: Bool[Tensor, "batch seq"]
    targets: Tensor
    embeddings: Float[Tensor, "batch dim"]


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
        tokens_per_batch: Budget of one forward pass when encoding, padding included.
        dtype: Type of the weights. For mixed precision leave float32 and set ``trainer.precision``; weights in half
            precision round small updates away, and are for use with ``lora`` or without training.
        attn_implementation: Implementation of attention; by default the best that the model supports.
        gradient_checkpointing: Recompute activations in the backward pass, for less memory.
        lora: Train low-rank adapters in place of all weights.
        seed: Seed of the embed token's first row and of fresh adapters.
    """

    def __init__(
        self,
        model: str,
        prompts: BasePrompts | None = None,
        embed_token: str = "<|embed_token|>",
        max_query_tokens: int = 128,
        max_document_tokens: int = 256,
        max_thought_tokens: int = 64,
        tokens_per_batch: int = 8192,
        dtype: Dtype = "float32",
        attn_implementation: Attention | None = None,
        gradient_checkpointing: bool = False,
        lora: LoRA | None = None,
        seed: int = 0,
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
        self.name = model
        self.prompts = prompts or ChatPrompts()
        self.embed_token = embed_token
        self.max_query_tokens = max_query_tokens
        self.max_document_tokens = max_document_tokens
        self.max_thought_tokens = max_thought_tokens
        self.tokens_per_batch = tokens_per_batch
        self.dtype: Dtype = dtype
        self.attn_implementation = attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.lora = lora
        self.seed = seed
        self.model: PreTrainedModel | None = None
        self._initial: dict[str, Tensor] = {}

    def build(self) -> None:
        """Loads the model and adds the embed token; does nothing the second time."""
        if self.model is not None:
            return
        model, tokenizer = load_causal_lm(self.name, self.dtype, self.attn_implementation)
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self.embed_token_id = add_embed_token(model, tokenizer, self.embed_token, self.seed)
        self.stop_ids = self._stop_ids(model)
        if self.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = self.lora.apply(model, self.embed_token_id) if self.lora else model
        self.train()
        self._special = re.compile("|".join(map(re.escape, sorted(special_tokens(tokenizer), key=len)[::-1])))
        self.prompts.render(tokenizer, "document", "", self.embed_token)

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
        return next(self.parameters()).device

    def tokenize(self, texts: Sequence[str], role: Role) -> list[Tokens]:
        """Prompts as tokens; all but ``thinking`` ones end with the embed token.

        Only the text is ever truncated, at its end, so neither the instruction nor the embed token can be lost. Special
        tokens that occur in a text are taken out of it.
        """
        limit = self.max_document_tokens if role == "document" else self.max_query_tokens
        clean = [self._special.sub(" ", text).strip() for text in texts]
        rendered = [
            self.prompts.render(self.tokenizer, role, text, self.embed_token) for text in self._truncate(clean, limit)
        ]
        return [list(ids) for ids in self.tokenizer(rendered, add_special_tokens=False)["input_ids"]]

    def _truncate(self, texts: list[str], limit: int) -> list[str]:
        encoded = self.tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True
        )
        return [
            text[: offsets[-1][1]] if len(offsets) == limit else text
            for text, offsets in zip(texts, encoded["offset_mapping"], strict=True)
        ]

    def tokenize_thoughts(self, thoughts: Sequence[str]) -> Completions:
        """Given thoughts as completions of thinking prompts, each ending with the embed token."""
        rendered = [self.prompts.render_thought(self._special.sub(" ", thought)) for thought in thoughts]
        encoded = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        inputs = [[*ids[: self.max_thought_tokens - 1], self.embed_token_id] for ids in encoded]
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
        logits: Tensor = self.causal_lm.get_output_embeddings()(hidden).float()
        cap = getattr(self.causal_lm.config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    def embed(
        self, sequences: Sequence[Tokens], on_progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """Unit-length embeddings at the last embed token of each sequence, in the order given.

        Sequences of like length share a forward pass. Gradients flow unless the caller turned them off.
        """
        parts, order = [], []
        for batch in length_batches([len(sequence) for sequence in sequences], self.tokens_per_batch):
            ids, mask, positions = pad([sequences[i] for i in batch], self.pad_id, "right", self.device)
            hidden = self.hidden_states(ids, mask, positions)
            parts.append(normalise(self._at_embed_token(ids, hidden)))
            order.extend(batch)
            if on_progress:
                on_progress(len(batch))
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[back.to(self.device)]

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
        output = self.causal_lm.get_output_embeddings()
        if output is not None and output.weight is not embedding_matrix(self.causal_lm):
            output.requires_grad_(False)

    def remember(self) -> None:
        """Keeps a copy of the trainable weights as they are now, for :meth:`as_remembered`."""
        self._initial = {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    @property
    def remembers(self) -> bool:
        """Whether :meth:`remember` was called."""
        return bool(self._initial)

    @contextmanager
    def as_remembered(self) -> Iterator[None]:
        """Within it, the model is the one that :meth:`remember` saw, without gradients.

        It serves as the frozen reference of a KL term. Only what is trained is kept twice: with LoRA, the adapters.
        Autocast would go on computing with the half-precision copies that it made of the weights before, so its copies
        are dropped at both ends.
        """
        if not self.remembers:
            raise RuntimeError("call remember() before as_remembered()")
        current = {}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name in self._initial:
                    current[name] = parameter.data
                    self._initial[name] = self._initial[name].to(parameter.device)
                    parameter.data = self._initial[name]
            torch.clear_autocast_cache()
            try:
                yield
            finally:
                for name, parameter in self.named_parameters():
                    if name in current:
                        parameter.data = current[name]
                torch.clear_autocast_cache()

    def remembered_fingerprint(self) -> float:
        """A number that two sets of remembered weights share only if they are the same."""
        return float(sum(p.double().abs().sum() * (i + 1) for i, p in enumerate(self._initial.values())))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model and its tokenizer as a folder that ``model`` can name."""
        self.causal_lm.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
