"""Queries as embeddings in every mode: after a thought, a part of one, several, none, or one that is not theirs."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from srch3.backbones.generation import Rollouts, generate
from srch3.backbones.reasoning_embedder import ReasoningEmbedder, Tokens
from srch3.errors import ConfigError
from srch3.functional.hashing import key
from srch3.functional.similarity import normalise
from srch3.types import Mode

Reading = Callable[[], AbstractContextManager[None]]
"""Within it, the backbone is the one that reads embeddings, where that is not the one that writes thoughts."""

_MODE = re.compile(r"(thinking|direct|empty|shuffled|copied)|(mean|budget)-([1-9][0-9]*)")


class ParsedMode(NamedTuple):
    """A mode in parts.

    Attributes:
        kind: Its name without a number.
        number: Of ``mean-N`` and ``budget-N``; 0 for the others.
    """

    kind: str
    number: int


def parse_mode(mode: Mode, max_thought_tokens: int, argument: str = "model.init_args.modes") -> ParsedMode:
    """Takes a mode apart.

    Args:
        mode: As in ``srch3.types.Mode``.
        max_thought_tokens: The longest thought that the model writes, which a budget has to be within.
        argument: What named the mode, for errors.

    Raises:
        ConfigError: There is no such mode.
    """
    found = _MODE.fullmatch(mode)
    if found is None:
        raise ConfigError(
            f"{argument}: expected one of 'thinking', 'direct', 'empty', 'shuffled', 'copied', 'mean-N' and "
            f"'budget-N', with a number N from 1 on, got {mode!r}"
        )
    parsed = ParsedMode(found[1] or found[2], int(found[3] or 0))
    if parsed.kind == "budget" and parsed.number > max_thought_tokens:
        raise ConfigError(
            f"{argument}: expected a budget of at most {max_thought_tokens} tokens, the longest thought; "
            f"got {mode!r}; lower it, or raise model.init_args.backbone.init_args.max_thought_tokens"
        )
    return parsed


class EmbeddedQueries(NamedTuple):
    """Queries as embeddings, with the thoughts before them.

    Attributes:
        embeddings: Unit length, float32.
        thoughts: The thought as text, empty where there was none; one per line where there were several.
        lengths: Tokens written or given, embed tokens included.
        emitted: Whether the model emitted the embed token of its own accord, every time; False where it was given.
    """

    embeddings: Float[Tensor, "queries dim"]
    thoughts: list[str]
    lengths: list[int]
    emitted: list[bool]


class QueryEmbedder:
    """Embeds queries in any number of modes, and has no thought written twice for them.

    ``thinking``, ``shuffled`` and ``budget-N`` share the likeliest thought, of which a budget leaves the beginning. The
    thoughts behind ``mean-N`` are sampled at temperature 1; they depend on the seed, the text of the query and the
    weights alone, and those of a smaller ``N`` are among those of a larger one. In mode ``shuffled`` each query has the
    thought of the one before it, in the batch before if need be; the very first has the last one's of its own batch,
    and none where it is alone in there.

    Args:
        backbone: The reasoning embedder.
        seed: Of sampled thoughts.
    """

    def __init__(self, backbone: ReasoningEmbedder, seed: int) -> None:
        self.backbone = backbone
        self.seed = seed
        self._previous: Tokens | None = None

    def begin(self) -> None:
        """Forgets the last thought, so that the next query is the first."""
        self._previous = None

    def embed(
        self,
        texts: Sequence[str],
        modes: Sequence[Mode],
        reading: Reading | None = None,
        on_tokens: Callable[[Tokens], None] | None = None,
    ) -> dict[Mode, EmbeddedQueries]:
        """Embeds queries in each of the modes.

        Args:
            texts: The queries.
            modes: As in ``srch3.types.Mode``.
            reading: By default a thought's embedding is that of the model which writes it, read while it does.
            on_tokens: Watches the likeliest thoughts being written, see :func:`generate`.

        Raises:
            ConfigError: There is no such mode.
        """
        parsed = {mode: parse_mode(mode, self.backbone.max_thought_tokens) for mode in modes}
        batch = _Batch(self.backbone, texts, list(parsed.values()), self.seed, reading, on_tokens)
        return {mode: self._embed(batch, *parts) for mode, parts in parsed.items()}

    def _embed(self, batch: "_Batch", kind: str, number: int) -> EmbeddedQueries:
        match kind:
            case "direct":
                return batch.read(self.backbone.tokenize(batch.texts, "direct"), [[]] * len(batch.texts))
            case "empty":
                return batch.read(batch.prompts, [[self.backbone.embed_token_id]] * len(batch.texts))
            case "copied":
                return batch.read(batch.prompts, self.backbone.tokenize_thoughts(batch.texts).inputs)
            case "shuffled":
                return batch.read(batch.prompts, self._of_others(batch.likeliest.completions.inputs))
            case "budget":
                return batch.within(number)
            case "mean":
                return batch.mean(batch.sampled, number)
        return batch.mean(batch.likeliest, 1)

    def _of_others(self, completions: list[Tokens]) -> list[Tokens]:
        nothing = [self.backbone.embed_token_id]
        first = self._previous or (completions[-1] if len(completions) > 1 else nothing)
        self._previous = completions[-1]
        return [first, *completions[:-1]]


class _Batch:
    """Queries with what their modes share, each part of which is made when the first mode asks for it."""

    def __init__(
        self,
        backbone: ReasoningEmbedder,
        texts: Sequence[str],
        modes: Sequence[ParsedMode],
        seed: int,
        reading: Reading | None,
        on_tokens: Callable[[Tokens], None] | None,
    ) -> None:
        self.backbone, self.texts, self.seed, self.reading = backbone, texts, seed, reading
        self._on_tokens = on_tokens
        self._likeliest: Rollouts | None = None
        self._samples = max((mode.number for mode in modes if mode.kind == "mean"), default=0)
        whole = any(mode.kind in {"thinking", "shuffled"} for mode in modes)
        self._budget = None if whole else max((mode.number for mode in modes if mode.kind == "budget"), default=None)

    @cached_property
    def prompts(self) -> list[Tokens]:
        """Of thinking."""
        return self.backbone.tokenize(self.texts, "thinking")

    @property
    def likeliest(self) -> Rollouts:
        """One thought per query, as far as the longest budget where no mode wants all of it.

        It is no ``cached_property``: before Python 3.12 all of these share a lock, and whoever reads the thought while
        it is written may let others wait in between.
        """
        if self._likeliest is None:
            rollouts = generate(self.backbone, self.prompts, 1, 0.0, self._budget, on_tokens=self._on_tokens)
            self._likeliest = self._read_apart(rollouts)
        return self._likeliest

    @cached_property
    def sampled(self) -> Rollouts:
        """As many thoughts per query as the mode with the most of them wants."""
        seeds = [key(f"{self.seed} {text}") % 2**63 for text in self.texts]
        return self._read_apart(generate(self.backbone, self.prompts, self._samples, 1.0, seeds=seeds))

    def _read_apart(self, rollouts: Rollouts) -> Rollouts:
        if self.reading is None:
            return rollouts
        completions = rollouts.completions.inputs
        samples = len(completions) // len(self.prompts)
        prompts = [prompt for prompt in self.prompts for _ in range(samples)]
        return rollouts._replace(embeddings=self.read(prompts, completions).embeddings)

    def read(self, prompts: list[Tokens], completions: list[Tokens]) -> EmbeddedQueries:
        """What is given: nothing is written."""
        sequences = [[*prompt, *tokens] for prompt, tokens in zip(prompts, completions, strict=True)]
        with self.reading() if self.reading else nullcontext():
            embeddings = self.backbone.embed(sequences)
        thoughts = [self.backbone.decode_thought(tokens) for tokens in completions]
        lengths = [max(1, len(tokens)) for tokens in completions]
        return EmbeddedQueries(embeddings, thoughts, lengths, [False] * len(sequences))

    def within(self, budget: int) -> EmbeddedQueries:
        """The likeliest thoughts, ended after so many tokens."""
        completions, emitted = self.likeliest.completions.inputs, self.likeliest.emitted.tolist()
        cut = [[*tokens[:-1][:budget], self.backbone.embed_token_id] for tokens in completions]
        in_time = [own and len(tokens) <= budget for own, tokens in zip(emitted, completions, strict=True)]
        return self.read(self.prompts, cut)._replace(emitted=in_time)

    def mean(self, rollouts: Rollouts, count: int) -> EmbeddedQueries:
        """The direction of the mean of each query's first embeddings."""
        samples = len(rollouts.embeddings) // len(self.texts)
        firsts = range(0, len(rollouts.embeddings), samples)
        embeddings = rollouts.embeddings.view(len(self.texts), samples, -1)[:, :count].mean(1)
        completions = [rollouts.completions.inputs[first : first + count] for first in firsts]
        thoughts = ["\n".join(map(self.backbone.decode_thought, some)) for some in completions]
        lengths = [sum(map(len, some)) for some in completions]
        emitted = [bool(rollouts.emitted[first : first + count].all()) for first in firsts]
        return EmbeddedQueries(normalise(embeddings), thoughts, lengths, emitted)
