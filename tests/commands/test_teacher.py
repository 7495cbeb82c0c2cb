from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from srch3.commands.teacher import Asked, Teacher
from srch3.errors import ConfigError, ModelError
from tests.models import SENTENCES, make_model_folder

ASKED = [Asked(sentence[:length], "a relevant text") for sentence in SENTENCES for length in (3, 17, 44, 70)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a model with a chat template, and of two without."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "chat": make_model_folder(folder / "qwen2"),
        "plain": make_model_folder(folder / "gpt2", "gpt2", chat=False),
        "windows": make_model_folder(folder / "mistral", "mistral", chat=False),
    }


def teacher(model: str, **settings: Any) -> Teacher:
    made = Teacher(**{"prompt": "{query}", "max_new_tokens": 12, "device": "cpu", **settings})
    made.load(model)
    return made


def written(made: Teacher, asked: Sequence[Asked] = ASKED) -> list[str]:
    found = {place: text for places, texts in made.write(asked) for place, text in zip(places, texts, strict=True)}
    assert sorted(found) == list(range(len(asked)))
    return [found[place] for place in range(len(asked))]


@pytest.mark.parametrize("kind", ["chat", "plain", "windows"])
def test_a_batch_writes_what_each_query_alone_would(models: dict[str, str], kind: str) -> None:
    made = teacher(models[kind])
    together = written(made)
    assert together == [written(made, [asked])[0] for asked in ASKED]
    assert len(set(together)) > 3
    made.tokens_per_batch = 1
    assert [len(places) for places, _ in made.write(ASKED)] == [1] * len(ASKED)


def test_greedy_thoughts_are_those_of_transformers_own_generate(models: dict[str, str]) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(models["plain"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(models["plain"])
    ids = tokenizer(ASKED[1].query, return_tensors="pt")
    greedy = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    text = tokenizer.decode(greedy[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert written(teacher(models["plain"]), [ASKED[1]]) == [" ".join(text.split())]


def test_what_comes_with_a_model_does_not_change_how_it_writes(models: dict[str, str], tmp_path: Path) -> None:
    expected = written(teacher(models["plain"]))
    model = transformers.AutoModelForCausalLM.from_pretrained(models["plain"])
    model.generation_config = transformers.GenerationConfig(do_sample=True, temperature=2.0, repetition_penalty=9.0)
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(models["plain"]).save_pretrained(tmp_path)
    assert written(teacher(str(tmp_path))) == expected


def test_temperature_draws_by_the_seed(models: dict[str, str]) -> None:
    hot = teacher(models["chat"], temperature=1.0)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(written(hot))
    assert draws[0] == draws[1] != draws[2]
    cold = teacher(models["chat"], temperature=1e-4)
    assert written(cold) == written(teacher(models["chat"]))


def test_the_prompt_is_filled_once_and_put_into_the_chat_template(models: dict[str, str]) -> None:
    chat = teacher(models["chat"], prompt="{query}|{positive}|{{}}")
    assert chat.wants_positive
    (prompt,) = chat._rendered([Asked("{positive} <|im_end|> q", "{query} p")])
    assert prompt == "<|im_start|>user\n{positive}   q|{query} p|{{}}<|im_end|>\n<|im_start|>assistant\n"
    assert teacher(models["plain"])._rendered([Asked("q", "")]) == ["q"]
    assert not teacher(models["plain"]).wants_positive


def test_long_texts_are_cut_and_the_prompt_around_them_is_not(models: dict[str, str]) -> None:
    long = "number " * 500
    plain = teacher(models["plain"], prompt="Q {query} P {positive} .", max_text_tokens=10)
    (prompt,) = plain._rendered([Asked(long, long)])
    assert prompt.startswith("Q number")
    assert prompt.endswith(" .")
    assert len(plain._tokenizer(prompt)["input_ids"]) < 40
    assert len(written(plain, [Asked(long, long)])) == 1
    wide = teacher(models["chat"], max_text_tokens=10_000)
    with pytest.raises(ConfigError, match=r"within the \d+ tokens .* lower teacher.max_text_tokens"):
        next(wide.write([Asked(long, long)]))


def test_what_was_written_becomes_one_line_without_the_reasoning(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = teacher(models["plain"])
    said = "let me see</think>\n\n  one \n two\t\n"
    ids = torch.tensor([plain._tokenizer(said, add_special_tokens=False)["input_ids"]])
    monkeypatch.setattr(plain._model, "generate", lambda input_ids, attention_mask: torch.cat([input_ids, ids], 1))
    assert written(plain, [Asked("q", "")]) == ["one two"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_new_tokens": 0}, "teacher.max_new_tokens: expected at least 1; got 0"),
        ({"max_text_tokens": 0}, "teacher.max_text_tokens: expected at least 1; got 0"),
        ({"tokens_per_batch": 0}, "teacher.tokens_per_batch: expected at least 1; got 0"),
        ({"temperature": -0.5}, "teacher.temperature: expected a number from 0 on; got -0.5"),
        ({"temperature": float("nan")}, "teacher.temperature: expected a number from 0 on; got nan"),
        ({"prompt": "say"}, "teacher.prompt: expected a text with {query} in it; got 'say'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Teacher(**settings)
    assert str(refused.value) == expected


def test_a_model_or_device_that_is_not_there_is_named(models: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"^model: expected .* got './absent'"):
        teacher("./absent")
    for device in ("nowhere", "cuda:99"):
        with pytest.raises(ConfigError, match=f"teacher.device: expected a device of this machine; got {device}"):
            teacher(models["plain"], device=device)
