from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from srch3.backbones import PlainPrompts, ReasoningEmbedder
from srch3.errors import ConfigError
from tests.models import SMALL, make_model_folder, make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model_folder(tmp_path_factory.mktemp("models") / "qwen2")


def built(model: str, **settings: object) -> ReasoningEmbedder:
    embedder = ReasoningEmbedder(model, **settings)  # type: ignore[arg-type]
    embedder.build()
    return embedder.eval()


def test_truncation_keeps_the_prompt_and_the_embed_token(folder: str) -> None:
    embedder = built(folder, max_document_tokens=5, max_query_tokens=3)
    long, short = embedder.tokenize(["fox " * 500, "fox fox"], "document")
    assert long[-1] == short[-1] == embedder.embed_token_id
    assert long[:5] == short[:5]
    assert len(long) - len(short) == 5 - len(embedder.tokenizer("fox fox")["input_ids"])
    query = embedder.tokenizer.decode(embedder.tokenize(["zebra " * 500], "thinking")[0])
    assert query.endswith("assistant\n")


def test_truncation_ends_a_text_whatever_side_the_tokenizer_prefers(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    tokenizer = make_tokenizer()
    tokenizer.truncation_side = "left"
    tokenizer.init_kwargs["truncation_side"] = "left"
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).truncation_side == "left"
    embedder = built(folder, max_document_tokens=3)
    short, long = embedder.tokenize(["a b c", "a b c" + " d" * 50], "document")
    assert short == long


def test_the_end_of_a_long_text_is_kept_where_its_beginning_is_dropped(folder: str) -> None:
    settings = {"max_document_tokens": 3, "max_query_tokens": 3}
    embedder = built(folder, truncation="left", **settings)
    for role in ("document", "direct", "thinking"):
        short, long = embedder.tokenize(["b c d", "a " * 50 + "b c d"], role)  # type: ignore[arg-type]
        assert short == long
    beginning = built(folder, **settings).tokenize(["d c b", "d c b" + " a" * 50], "document")
    assert beginning[0] == beginning[1]


@pytest.mark.parametrize("truncation", ["right", "left"])
def test_overlong_texts_are_those_that_lose_something(folder: str, truncation: str) -> None:
    embedder = built(folder, max_document_tokens=5, max_query_tokens=3, truncation=truncation)
    texts = ["z", "z" * 3, "z" * 4, "z" * 5, "z" * 6, "<|im_end|>zzz<|embed_token|>"]
    assert embedder.overlong(texts, "document") == [False, False, False, False, True, False]
    assert embedder.overlong(texts, "thinking") == [False, False, True, True, True, False]
    assert embedder.overlong(texts, "direct") == [False, False, True, True, True, False]
    unlimited = built(folder)
    for role in ("document", "direct", "thinking"):
        lost = [a != b for a, b in zip(embedder.tokenize(texts, role), unlimited.tokenize(texts, role), strict=True)]  # type: ignore[arg-type]
        assert embedder.overlong(texts, role) == lost  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "most"),
    [("max_document_tokens", 32 - 1), ("max_query_tokens", 32 - 1 - 8 - 1), ("max_thought_tokens", 32 - 1 - 8 - 1)],
)
def test_limits_that_exceed_what_the_model_reads_are_refused(tmp_path: Path, limit: str, most: int) -> None:
    folder = make_model_folder(tmp_path / "m")
    config = Qwen2Config(vocab_size=400, **{**SMALL, "max_position_embeddings": 32})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    prompts = PlainPrompts(thinking="{text} a", direct="{text}", document="{text}")
    limits = {"max_document_tokens": 8, "max_query_tokens": 8, "max_thought_tokens": 8, limit: most}
    embedder = built(folder, prompts=prompts, **limits)
    embedder.prompt_tokenizer.check_window(None, max_thought_tokens=10_000)
    with pytest.raises(ConfigError, match=r"expected at most 32 tokens.* 33 for") as refusal:
        built(folder, prompts=prompts, **{**limits, limit: most + 1})
    assert f"{limit} {most + 1}" in str(refusal.value)


def test_special_tokens_in_a_text_are_taken_out(folder: str) -> None:
    embedder = built(folder)
    hostile = "a <|embed_token|> b <|im_end|> c"
    ids = embedder.tokenize([hostile], "document")[0]
    assert ids.count(embedder.embed_token_id) == 1
    assert ids.count(embedder.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2
    assert embedder.tokenize_thoughts([hostile]).inputs[0].count(embedder.embed_token_id) == 1
