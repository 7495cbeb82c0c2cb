"""Trains a tokenizer from nothing: byte-level pair encoding, which can spell any text and loses none of it."""

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from srch3.errors import ConfigError, DataError

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
_BYTES = 256
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+[ \t]*|\s+(?!\S)|\s+"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 6144, special_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    r"""Trains a byte-level BPE tokenizer; the same texts give the same tokenizer.

    Words are split as in Qwen and GPT-4 (letters with the one character before them; digits one by one), except that a
    line break keeps the indentation that follows it, so that Python's layout costs one token per line.

    Args:
        texts: What to learn frequent strings from.
        vocab_size: Tokens in all, special ones included; fewer where the texts do not have that many.
        special_tokens: Further tokens that are never split, such as markers of a template.

    Raises:
        ConfigError: Where the vocabulary cannot hold all bytes and the special tokens.
        DataError: Where there is no text.
    """
    special = list(dict.fromkeys([END_OF_TEXT, PAD, *special_tokens]))
    if vocab_size < _BYTES + len(special):
        raise ConfigError(
            f"vocab_size: expected at least {_BYTES + len(special)}, for all bytes and {len(special)} special tokens;"
            f" got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=32,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_counted(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        additional_special_tokens=list(special_tokens),
        clean_up_tokenization_spaces=False,
    )


def _counted(texts: Iterable[str]) -> Iterable[str]:
    empty = True
    for text in texts:
        empty = False
        yield text
    if empty:
        raise DataError("tokenizer: expected at least one text to learn from; got none")
