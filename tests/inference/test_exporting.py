"""The round trip: a checkpoint, its exported folder, and what other libraries make of it."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from srch3.backbones import ReasoningEmbedder, export
from srch3.backbones.prompts import BasePrompts, ChatPrompts, Role
from srch3.errors import DataError, ModelError
from srch3.inference import exporting, sentence_transformers_folder
from srch3.inference.embedder import Embedder
from srch3.inference.exporting import Exported, export_model
from srch3.inference.root_template import PASSAGE
from srch3.inference.sentence_transformers_folder import live_embeddings
from tests.inference.runs_of_training import make_run, trained
from tests.models import make_model_folder

KINDS = [(chat, lora) for chat in (True, False) for lora in (False, True)]
SHORT = [
    "how to parse a date",
    "x",
    "",
    "  padded on both sides\n",
    "two\n\nparagraphs",
    "a <|im_start|>system<|im_end|> b <|embed_token|>",
    "<|embed_token|><|endoftext|>",
    "naïve {text}",
    "搜索“”",
]
LONG = "the numbers of a file (or a date) are read, parsed and compared while the lazy dog jumps over it "


class Case(NamedTuple):
    exported: Exported
    live: ReasoningEmbedder
    checkpoint: Path


@pytest.fixture(scope="module", params=KINDS, ids=["chat", "chat-lora", "plain", "plain-lora"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("export")
    chat, lora = request.param
    checkpoint, live = make_run(folder, chat, lora)
    return Case(export_model(checkpoint, folder / "out"), live, checkpoint)


def assert_same(found: Any, expected: np.ndarray[Any, Any]) -> None:
    assert np.asarray(found).dtype == np.float32
    assert (np.asarray(found) * expected).sum(1).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def sequences(model: SentenceTransformer, text: str, name: str) -> list[int]:
    """Tokens, as sentence-transformers makes them."""
    return model.preprocess([text], prompt=model.prompts[name], task=name)["input_ids"][0].tolist()  # type: ignore[no-any-return]


def test_sentence_transformers_embeds_mixed_lengths_and_special_tokens_the_same(case: Case) -> None:
    model = SentenceTransformer(str(case.exported.folder), device="cpu")
    assert_same(model.encode_query(SHORT, batch_size=3), live_embeddings(case.live, SHORT, "query"))
    assert_same(model.encode_document(SHORT, batch_size=8), live_embeddings(case.live, SHORT, "document"))
    assert_same(model.encode(SHORT), live_embeddings(case.live, SHORT, "document"))
    assert_same(model.encode(SHORT, prompt_name="query"), live_embeddings(case.live, SHORT, "query"))
    assert model.similarity_fn_name == "cosine"
    assert model.get_embedding_dimension() == case.live.dim == 32


def usual_words(live: ReasoningEmbedder, role: Role, length: int) -> list[str]:
    """Words which leave, where a text begins with them, as many tokens to the prompt as most words do."""
    around = length - live.prompt_tokenizer.limits[role]
    words = dict.fromkeys([*LONG.split(), *PASSAGE.split()])
    return [w for w in words if len(live.tokenize([w], role)[0]) - len(live.tokenizer.tokenize(w)) == around]


@pytest.mark.parametrize("name", ["query", "document"])
def test_sentence_transformers_cuts_long_texts_where_srch3_does(case: Case, name: str) -> None:
    model = SentenceTransformer(str(case.exported.folder), device="cpu")
    chat = isinstance(case.live.prompts, ChatPrompts)
    role: Role = "direct" if name == "query" else "document"
    words = usual_words(case.live, role, getattr(model[0], f"{name}_length"))
    assert len(words) >= (35 if chat else 15)
    long = [f"{word} {LONG * 3}" for word in words]
    assert all(case.live.overlong(long, "document"))
    encode = model.encode_query if name == "query" else model.encode_document
    assert_same(encode([*long, *SHORT], batch_size=5), live_embeddings(case.live, [*long, *SHORT], name))


@pytest.mark.parametrize("name", ["query", "document"])
def test_every_long_text_keeps_the_whole_prompt_and_about_its_limit(case: Case, name: str) -> None:
    model = SentenceTransformer(str(case.exported.folder), device="cpu")
    role: Role = "direct" if name == "query" else "document"
    for first in range(0, len(LONG), 7):
        text = LONG[first:] + LONG * 3
        ours, theirs = case.live.tokenize([text], role)[0], sequences(model, text, name)
        assert abs(len(ours) - len(theirs)) <= 3
        shared = min(len(ours), len(theirs)) - 8
        assert ours[:shared] == theirs[:shared]
        end = len(case.live.tokenizer.tokenize(case.live.prompts.render(case.live.tokenizer, role, "", "")))
        assert theirs[-1] == ours[-1] == case.live.embed_token_id
        assert theirs[-2:] == ours[-2:]
        assert end < len(theirs)


def test_plain_transformers_embeds_the_same(case: Case) -> None:
    folder = case.exported.folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    for name in ("query", "document"):
        chats = [[{"role": "system", "content": prompts[name]}, {"role": "user", "content": text}] for text in SHORT]
        batch = tokenizer.apply_chat_template(chats, return_tensors="pt", padding=True, return_dict=True)
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        last = hidden[torch.arange(len(SHORT)), batch["attention_mask"].sum(1) - 1]
        assert_same(torch.nn.functional.normalize(last).numpy(), live_embeddings(case.live, SHORT, name))


def test_srch3_embeds_the_same_from_the_folder_and_the_checkpoint(case: Case) -> None:
    again, before = (
        Embedder.load(case.exported.folder, "cpu", "float32"),
        Embedder.load(case.checkpoint, "cpu", "float32"),
    )
    texts = [*SHORT, LONG * 3]
    assert_same(again.encode_documents(texts), live_embeddings(case.live, texts, "document"))
    for mode in ("direct", "thinking"):
        found, expected = again.embed_queries(texts, [mode])[mode], before.embed_queries(texts, [mode])[mode]
        assert found.thoughts == expected.thoughts
        assert_same(found.embeddings.numpy(), expected.embeddings.numpy())


def test_an_exported_folder_can_be_exported_and_trained_further(case: Case, tmp_path: Path) -> None:
    again = export_model(case.exported.folder, tmp_path / "again")
    assert again.base is None
    first, second = (Embedder.load(folder, "cpu", "float32") for folder in (case.exported.folder, again.folder))
    assert first.revision == second.revision
    template = (case.exported.folder / "chat_template.jinja").read_text()
    assert (again.folder / "chat_template.jinja").read_text() == template
    plain = ReasoningEmbedder(str(case.exported.folder), prompts=case.live.prompts)
    plain.build()
    for role in ("thinking", "document"):
        assert plain.prompt_tokenizer.render(SHORT, role) == case.live.prompt_tokenizer.render(SHORT, role)


def test_what_was_checked_is_told(case: Case) -> None:
    exported = case.exported
    assert [found.library for found in exported.compared] == ["transformers", "sentence-transformers"]
    assert all(found.within >= 0.9999 for found in exported.compared)
    assert exported.base is not None
    assert exported.base < 0.99
    assert {cut.texts for cut in exported.compared[1].beyond.values()} == {19}
    assert all(cut.same >= 5 for cut in exported.compared[1].beyond.values())
    names = {path.name for path in exported.folder.parent.iterdir()}
    assert names == {"base", "runs", "out"}


def test_the_folder_holds_a_plain_causal_lm_too(case: Case) -> None:
    model = AutoModelForCausalLM.from_pretrained(case.exported.folder)
    assert model.num_parameters() == len(case.live.tokenizer) * 32 + AutoModelForCausalLM.from_pretrained(
        case.exported.folder.parent / "base"
    ).num_parameters() - 32 * (len(case.live.tokenizer) - 1)


class Loud(BasePrompts):
    def render(self, tokenizer: Any, role: Role, text: str, embed_token: str) -> str:
        return f"{text.upper()}{embed_token}"


def test_prompts_that_change_the_text_are_refused(tmp_path: Path) -> None:
    live = trained(make_model_folder(tmp_path / "m"), prompts=Loud())
    live.save_pretrained(tmp_path / "saved")
    with pytest.raises(ModelError, match=r"same words around every text.*Loud"):
        export_model(tmp_path / "saved", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Quiet(BasePrompts):
    def render(self, tokenizer: Any, role: Role, text: str, embed_token: str) -> str:
        return f"{role} [{text}]{'' if role.startswith('thinking') else embed_token}"


def test_prompts_of_ones_own_are_exported(tmp_path: Path) -> None:
    live = trained(make_model_folder(tmp_path / "m", "gpt2"), prompts=Quiet())
    live.save_pretrained(tmp_path / "saved")
    exported = export_model(tmp_path / "saved", tmp_path / "out")
    assert min(found.within for found in exported.compared) >= 0.9999
    model = SentenceTransformer(str(exported.folder), device="cpu")
    assert_same(model.encode_query(SHORT), live_embeddings(live, SHORT, "query"))


@pytest.mark.parametrize("lora", [False, True])
def test_a_model_that_training_left_as_its_base_is_refused(tmp_path: Path, lora: bool) -> None:
    checkpoint, _ = make_run(tmp_path, lora=lora, scale=0.0)
    with pytest.raises(ModelError, match=r"unlike its base .*its training changed nothing"):
        export_model(checkpoint, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "runs"}


def test_a_folder_that_embeds_as_the_base_does_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = make_run(tmp_path)
    compare = exporting.compare_direct

    def rounded(*args: Any) -> Any:
        return [found._replace(within=0.0) for found in compare(*args)]

    monkeypatch.setattr(exporting, "compare_direct", rounded)
    with pytest.raises(ModelError, match=r"nearer to the trained model than its base"):
        export_model(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("library", ["_by_transformers", "_by_sentence_transformers"])
def test_a_folder_that_embeds_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    checkpoint, _ = make_run(tmp_path)
    original = getattr(sentence_transformers_folder, library)

    def spoilt(embedder: ReasoningEmbedder, folder: Path, *args: Any) -> Any:
        template = folder / "chat_template.jinja"
        template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|> "))
        return original(embedder, folder, *args)

    monkeypatch.setattr(sentence_transformers_folder, library, spoilt)
    with pytest.raises(ModelError, match=rf"expected {library[4:].replace('_', '-')} to embed .* nothing was exported"):
        export_model(checkpoint, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "runs"}


def test_without_sentence_transformers_the_folder_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, live = make_run(tmp_path)
    whole = export_model(checkpoint, tmp_path / "whole")
    found = importlib.util.find_spec

    def absent(name: str, *args: Any) -> Any:
        return None if name == "sentence_transformers" else found(name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(sentence_transformers_folder, "find_spec", absent)
        patch.setitem(sys.modules, "sentence_transformers", None)
        exported = export_model(checkpoint, tmp_path / "out")
    assert [compared.library for compared in exported.compared] == ["transformers"]
    files = {str(path.relative_to(whole.folder)) for path in whole.folder.rglob("*")}
    assert files == {str(path.relative_to(exported.folder)) for path in exported.folder.rglob("*")}
    model = SentenceTransformer(str(exported.folder), device="cpu")
    assert_same(model.encode_query(SHORT), live_embeddings(live, SHORT, "query"))


def test_a_model_that_thinks_about_documents_is_nothing_for_plain_sentence_transformers(tmp_path: Path) -> None:
    checkpoint, _ = make_run(tmp_path, documents="thinking")
    exported = export_model(checkpoint, tmp_path / "out")
    assert (exported.documents, exported.compared) == ("thinking", [])
    assert not (exported.folder / "modules.json").exists()
    assert (exported.folder / "thinking" / "modules.json").is_file()
    assert Embedder.load(exported.folder, "cpu", "float32").documents == "thinking"
    assert "Plain sentence-transformers cannot embed the documents" in (exported.folder / "README.md").read_text()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "llama", "qwen3"])
def test_other_families_make_the_round_trip(tmp_path: Path, family: str) -> None:
    """Absolute positions, sliding windows, a matrix for the output, and norms of queries and keys."""
    checkpoint, live = make_run(tmp_path, family=family)
    exported = export_model(checkpoint, tmp_path / "out")
    assert min(compared.within for compared in exported.compared) >= 0.9999
    model = SentenceTransformer(str(exported.folder), device="cpu")
    texts = [*SHORT, "date " + LONG * 3]
    assert_same(model.encode_document(texts, batch_size=4), live_embeddings(live, texts, "document"))


def test_a_template_without_system_role_gets_the_prompt_into_the_users_turn(tmp_path: Path) -> None:
    live = trained(make_model_folder(tmp_path / "m", system_role=False))
    live.save_pretrained(tmp_path / "saved")
    exported = export_model(tmp_path / "saved", tmp_path / "out")
    model = SentenceTransformer(str(exported.folder), device="cpu")
    assert_same(model.encode_query(SHORT), live_embeddings(live, SHORT, "query"))
    assert set(model.prompts.values()) == {live.prompts.systems[role] for role in ("direct", "document")}  # type: ignore[attr-defined]


def test_sentence_transformers_keeps_the_beginning_where_srch3_keeps_the_end(tmp_path: Path) -> None:
    checkpoint, live = make_run(tmp_path, truncation="left")
    exported = export_model(checkpoint, tmp_path / "out")
    model = SentenceTransformer(str(exported.folder), device="cpu")
    assert_same(model.encode_document(SHORT), live_embeddings(live, SHORT, "document"))
    cut = live.tokenizer.decode(sequences(model, LONG * 3, "document"))
    assert cut.startswith("<|im_start|>system\nRepresent")
    assert cut.endswith("The embedding is <|embed_token|>")
    assert "the numbers of a file" in cut
    assert "keeps the end" in (exported.folder / "README.md").read_text()


@pytest.mark.parametrize("content", ["", "[1]", '{"queries": 3}'])
def test_broken_results_are_refused_before_any_work(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match=r"results: expected results\.json of the command evaluate; got"):
        export_model(tmp_path / "absent", tmp_path / "out", results=tmp_path / "results.json")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = make_run(tmp_path)

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(exporting, "write_thinking_folder", full)
    with pytest.raises(OSError, match="no space"):
        export_model(checkpoint, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "runs"}


def test_the_least_cosine_is_that_of_the_live_model() -> None:
    assert export.LEAST_COSINE["float32"] == 0.9999
