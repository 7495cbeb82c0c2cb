import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from srch3.backbones import BasePrompts, ChatPrompts, PlainPrompts, ReasoningEmbedder
from srch3.backbones.prompts import Role
from srch3.backbones.settings import (
    SETTINGS_FILE,
    describe_prompts,
    embedder_from,
    prompts_from,
    read_settings,
    settings_of,
    write_settings,
)
from srch3.errors import ConfigError, ModelError
from tests.models import make_model_folder, make_tokenizer


class Shouting(BasePrompts):
    """Prompts of somebody's own."""

    def __init__(self, mark: str, times: int = 2) -> None:
        self.mark, self.times = mark, times

    def render(self, tokenizer: PreTrainedTokenizerBase, role: Role, text: str, embed_token: str) -> str:
        return f"{text}{self.mark * self.times}{embed_token}"


class Secretive(Shouting):
    """Prompts that do not keep what they were made from."""

    def __init__(self, exclamation: str) -> None:
        super().__init__(exclamation)


def embedder(**settings: Any) -> ReasoningEmbedder:
    return ReasoningEmbedder("somewhere", **settings)


def written(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_settings(folder, settings_of(embedder()) | changes)
    return folder


@pytest.mark.parametrize(
    "prompts",
    [PlainPrompts(document="text: {text} is"), ChatPrompts(direct="Find it.", phrase="So: "), Shouting("!", times=3)],
)
def test_settings_survive_a_file(prompts: BasePrompts, tmp_path: Path) -> None:
    original = embedder(
        prompts=prompts,
        embed_token="<e>",
        max_query_tokens=7,
        max_document_tokens=9,
        max_thought_tokens=3,
        truncation="left",
        chat_template="ours",
    )
    write_settings(tmp_path, settings_of(original, "thinking"))
    again = embedder_from(tmp_path)
    assert settings_of(again, "thinking") == settings_of(original, "thinking")
    assert (type(again.prompts), vars(again.prompts)) == (type(prompts), vars(prompts))
    assert (again.name, again.chat_template, again.truncation) == (str(tmp_path), "ours", "left")
    assert read_settings(tmp_path)["documents"] == "thinking"


def test_prompts_that_hide_their_arguments_are_refused() -> None:
    with pytest.raises(ModelError, match=r"Secretive\.init_args\(\) to give .* exclamation; got none"):
        describe_prompts(Secretive("!"))


@pytest.mark.parametrize("path", ["os.system", "elsewhere.Prompts", "Prompts", "srch3.backbones.lora.LoRA", None])
def test_only_prompts_that_were_imported_are_made(path: Any) -> None:
    with pytest.raises(ModelError, match="expected a class of prompts that has been imported"):
        prompts_from({"class_path": path})


def test_a_folder_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = written(tmp_path / "model", prompts={"class_path": "evil.Prompts", "init_args": {}})
    with pytest.raises(ModelError, match=r"got 'evil\.Prompts'; if you trust it, import evil in Python"):
        embedder_from(folder)


def test_prompts_with_other_arguments_are_refused() -> None:
    described = describe_prompts(PlainPrompts()) | {"init_args": {"documents": "{text}"}}
    with pytest.raises(ModelError, match=r"expected arguments of srch3.backbones.prompts.PlainPrompts; got others"):
        prompts_from(described)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": 2}, "expected format 1 in .*srch3.json; got 2"),
        ({"embed_token": 3}, "expected embed_token in .* to be 'str'; got 3"),
        ({"max_query_tokens": True}, "expected max_query_tokens in .* to be 'int'; got True"),
        ({"truncation": "middle"}, "expected truncation in .* to be 'right' or 'left'; got 'middle'"),
        ({"documents": None}, "expected documents in .* to be 'direct' or 'thinking'; got None"),
        ({"chat_template": 1}, "expected chat_template in .* to be a name or null; got 1"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=complaint):
        read_settings(written(tmp_path, **changes))


@pytest.mark.parametrize(("text", "got"), [("{", "got broken JSON"), ("[]", "got 'list'")])
def test_a_broken_file_is_named(text: str, got: str, tmp_path: Path) -> None:
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ModelError, match=f"srch3.json.*{got}"):
        read_settings(tmp_path)


def test_a_plain_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model: expected a folder with srch3.json, as `python -m srch3 export`"):
        embedder_from(make_model_folder(tmp_path))


def test_a_saved_model_can_be_loaded_by_its_settings(tmp_path: Path) -> None:
    built = ReasoningEmbedder(make_model_folder(tmp_path / "base"), max_document_tokens=3)
    built.build()
    built.save_pretrained(tmp_path / "saved")
    again = embedder_from(tmp_path / "saved")
    again.build()
    assert again.tokenize(["one two three four five"], "document") == built.tokenize(["one two three"], "document")[:1]
    assert json.loads((tmp_path / "saved" / SETTINGS_FILE).read_text())["documents"] == "direct"


def two_templates(folder: Path) -> str:
    make_model_folder(folder)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = {"default": "{{ messages[-1].content }}", "ours": tokenizer.chat_template}
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_one_of_several_chat_templates_is_used(tmp_path: Path) -> None:
    plain, named, default = (
        ReasoningEmbedder(folder, chat_template=name)
        for folder, name in [
            (make_model_folder(tmp_path / "one"), None),
            (two_templates(tmp_path / "two"), "ours"),
            (two_templates(tmp_path / "two"), None),
        ]
    )
    for each in (plain, named, default):
        each.build()
    asked = [each.prompt_tokenizer.render(["a date"], "direct") for each in (plain, named, default)]
    assert asked[0] == asked[1] != asked[2]


def test_an_unknown_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"chat_template: expected one of \['default', 'ours'\].* got 'others'"):
        ReasoningEmbedder(two_templates(tmp_path), chat_template="others").build()
