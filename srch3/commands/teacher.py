"""A language model that writes thoughts for others to learn."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from srch3.backbones.batching import length_batches, pad
from srch3.backbones.embed_token import special_tokens
from srch3.backbones.loading import ARGUMENT, Dtype, load_causal_lm
from srch3.backbones.prompts import TEMPLATE_DATE
from srch3.errors import ConfigError, ModelError
from srch3.messages import one_line

_PLACES = re.compile(r"\{(query|positive)\}")
_NAMES = re.compile(r"\{(\w+)\}")
_END_OF_REASONING = "</think>"
PROMPT = (
    "Write what a document that answers this search query would contain: its main concepts, exact terms, synonyms and "
    "close topics. Two sentences at most, without an introduction.\n\nSearch query: {query}\nSuch a document contains:"
)


class Asked(NamedTuple):
    """What a thought is asked for.

    Attributes:
        query: Text of the query.
        positive: Text of a relevant document; empty where the prompt has no place for it.
    """

    query: str
    positive: str


class Teacher:
    """Any causal language model of Hugging Face, asked in its own chat template where it has one.

    What it writes becomes one line; reasoning that it closes with ``</think>`` is left out. Greedy thoughts depend
    neither on the batch nor on the order. Sampled ones (``temperature`` above 0) follow ``seed_everything``, and a
    command that goes on after an interruption draws others than an uninterrupted one.

    Args:
        prompt: What it is asked. ``{query}`` stands for the query, and ``{positive}``, which may be left out, for its
            most relevant document.
        max_new_tokens: Longest thought, in tokens of the teacher.
        temperature: 0 takes the likeliest token each time.
        max_text_tokens: Tokens of the query, and of the document, beyond these are dropped.
        tokens_per_batch: Budget of what is written at the same time, prompts and padding included.
        dtype: Type of the weights; bfloat16 halves the memory.
        device: Such as cpu or cuda:1; by default the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: A number is out of range, or the prompt has no place for the query.
    """

    def __init__(
        self,
        prompt: str = PROMPT,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        max_text_tokens: int = 512,
        tokens_per_batch: int = 8192,
        dtype: Dtype = "float32",
        device: str | None = None,
    ) -> None:
        least = {
            "max_new_tokens": max_new_tokens,
            "max_text_tokens": max_text_tokens,
            "tokens_per_batch": tokens_per_batch,
        }
        for name, value in least.items():
            if value < 1:
                raise ConfigError(f"teacher.{name}: expected at least 1; got {value}")
        if not 0 <= temperature < float("inf"):
            raise ConfigError(f"teacher.temperature: expected a number from 0 on; got {temperature}")
        if "{query}" not in prompt:
            raise ConfigError(f"teacher.prompt: expected a text with {{query}} in it; got {prompt!r}")
        if unknown := set(_NAMES.findall(prompt)) - {"query", "positive"}:
            raise ConfigError(
                f"teacher.prompt: expected no other places than {{query}} and {{positive}}; got {sorted(unknown)}"
            )
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.max_text_tokens = max_text_tokens
        self.tokens_per_batch = tokens_per_batch
        self.dtype: Dtype = dtype
        self.device = device

    @property
    def wants_positive(self) -> bool:
        """Whether the prompt has a place for a relevant document."""
        return "{positive}" in self.prompt

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide what is written, those that only decide how fast left out."""
        names = ("prompt", "max_new_tokens", "temperature", "max_text_tokens")
        return {name: getattr(self, name) for name in names}

    def load(self, model: str) -> None:
        """Loads the model; safetensors only, and no code that comes with it is run.

        Raises:
            ModelError: There is no such model, or it is not a causal LM.
            ConfigError: There is no such device.
        """
        try:
            loaded, self._tokenizer = load_causal_lm(model, self.dtype, None)
        except ModelError as error:
            raise ModelError(str(error).replace(ARGUMENT, "model")) from error
        self._model = self._on_device(loaded).eval()
        self._model.generation_config = self._generation_config(loaded, self._tokenizer)
        self._special = re.compile("|".join(map(re.escape, sorted(special_tokens(self._tokenizer), key=len)[::-1])))

    def _on_device(self, model: PreTrainedModel) -> PreTrainedModel:
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            moved: PreTrainedModel = model.to(device)  # type: ignore[arg-type]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"teacher.device: expected a device of this machine; got {device}: {reason}") from error
        return moved

    def _generation_config(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
        """Ours alone: what comes with a model may sample, or penalise repetition."""
        configured = model.generation_config.eos_token_id if model.generation_config else None
        ends = {*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id} - {None}
        sampling = {"temperature": self.temperature, "top_k": 0, "top_p": 1.0} if self.temperature else {}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=self.temperature > 0,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self._pad_id,
            **sampling,
        )

    @property
    def _pad_id(self) -> int:
        return self._tokenizer.pad_token_id or 0

    @torch.no_grad()
    def write(self, asked: Sequence[Asked]) -> Iterator[tuple[list[int], list[str]]]:
        """Writes thoughts, those of the longest prompts first.

        Yields:
            Positions in ``asked``, and a thought for each of them.

        Raises:
            ConfigError: The prompts are longer than what the model can read.
        """
        prompts = self._tokenizer(self._rendered(asked), add_special_tokens=False)["input_ids"]
        self._check_window(max(map(len, prompts)))
        for batch in length_batches([len(ids) + self.max_new_tokens for ids in prompts], self.tokens_per_batch):
            ids, mask, _ = pad([prompts[place] for place in batch], self._pad_id, "left", self._model.device)
            written = self._model.generate(input_ids=ids, attention_mask=mask)[:, ids.shape[1] :]
            texts = self._tokenizer.batch_decode(written, skip_special_tokens=True)
            yield batch, [one_line(text.rpartition(_END_OF_REASONING)[2]) for text in texts]

    def _rendered(self, asked: Sequence[Asked]) -> list[str]:
        queries, positives = (self._shortened(column) for column in zip(*asked, strict=True))
        return [
            self._in_template(self._filled({"query": query, "positive": positive}))
            for query, positive in zip(queries, positives, strict=True)
        ]

    def _filled(self, texts: Mapping[str, str]) -> str:
        return _PLACES.sub(lambda place: texts[place[1]], self.prompt)

    def _shortened(self, texts: Sequence[str]) -> list[str]:
        clean = [self._special.sub(" ", text).strip() for text in texts]
        limit = self.max_text_tokens
        encoded = self._tokenizer(
            clean, add_special_tokens=False, truncation=True, max_length=limit, return_offsets_mapping=True
        )
        ends = [offsets[-1][1] if len(offsets) == limit else None for offsets in encoded["offset_mapping"]]
        return [text[:end] for text, end in zip(clean, ends, strict=True)]

    def _in_template(self, prompt: str) -> str:
        if not self._tokenizer.chat_template:
            return f"{self._tokenizer.bos_token or ''}{prompt}"
        return str(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                return_dict=False,
                date_string=TEMPLATE_DATE,
                enable_thinking=False,
            )
        )

    def _check_window(self, longest: int) -> None:
        window = getattr(self._model.config, "max_position_embeddings", None)
        if window is not None and longest + self.max_new_tokens > window:
            raise ConfigError(
                f"teacher: expected prompt and thought within the {window} tokens that the model reads; got "
                f"{longest} + {self.max_new_tokens}; lower teacher.max_text_tokens or teacher.max_new_tokens"
            )
