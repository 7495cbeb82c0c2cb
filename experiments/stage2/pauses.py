"""A thought that means nothing, so that only the time to think is left of it."""

from srch3.data.thoughts import ThoughtSource
from srch3.errors import ConfigError
from srch3.types import Query


class PauseThoughts(ThoughtSource):
    """The same word over and over, whatever the query (pause tokens, arXiv 2310.02226).

    Args:
        count: How often.
        word: What to write; one token where the tokenizer knows it.
    """

    def __init__(self, count: int = 8, word: str = ".") -> None:
        if count < 1:
            raise ConfigError(f"data.init_args.thoughts.init_args.count: expected at least 1; got {count}")
        self.thought = " ".join([word] * count)

    def __call__(self, query: Query, positive_text: str) -> str:
        """Always the same."""
        return self.thought
