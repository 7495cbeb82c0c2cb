from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from srch3.data.tokenizer import END_OF_TEXT, PAD, train_tokenizer
from srch3.errors import ConfigError, DataError

TEXTS = ["def add(a, b):\n    return a + b", "Adds one number to another number.", "        return numbers"] * 20


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 290, ["<|think|>"])


@given(st.text())
def test_any_text_survives(text: str) -> None:
    trained = train_tokenizer(TEXTS, 258)
    assert trained.decode(ids(trained, text)) == text


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "a  b \t\r\n\r\n  c", "can't , stop . !", "ünïcödé 漢字 🙂\x00", "  lead"]
)
def test_awkward_texts_survive(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_frequent_words_and_indentation_become_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 290
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "\n    return number")) == ["ĊĠĠĠĠ", "return", "Ġnumber"]
    assert len(ids(tokenizer, "zqxj")) == 4


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "1024")) == ["1", "0", "2", "4"]


def test_special_tokens_are_distinct_and_never_split(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END_OF_TEXT, PAD)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert ids(tokenizer, f"a{END_OF_TEXT}<|think|>{PAD}")[1:] == [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<|think|>"),
        tokenizer.pad_token_id,
    ]
    assert set(tokenizer.all_special_tokens) == {END_OF_TEXT, PAD, "<|think|>"}
    assert tokenizer.decode(ids(tokenizer, f"a b{END_OF_TEXT}"), skip_special_tokens=True) == "a b"


def test_nothing_is_added_around_a_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("add")["input_ids"] == ids(tokenizer, "add")


def test_saved_and_loaded_it_is_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = f"def add(numbers):\n\treturn 12 + ü<|think|>{END_OF_TEXT}"
    assert ids(loaded, text) == ids(tokenizer, text)
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert loaded.decode(ids(loaded, text)) == text
    assert len(loaded) == len(tokenizer)


def test_the_same_texts_give_the_same_tokenizer() -> None:
    first, second = (train_tokenizer(iter(TEXTS), 320).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


def test_few_texts_give_a_smaller_vocabulary() -> None:
    assert 258 <= len(train_tokenizer(["ab ab"], 1000)) < 270


def test_a_vocabulary_that_cannot_spell_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="vocab_size: expected at least 259, for all bytes and 3 special tokens; got 258"
    ):
        train_tokenizer(TEXTS, 258, ["<|think|>"])


def test_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="expected at least one text"):
        train_tokenizer([], 300)
