from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from srch3.backbones import LoRA, ReasoningEmbedder, export
from srch3.backbones.lora import merged_weight, without_adapters
from srch3.backbones.settings import Documents, embedder_from, read_settings
from srch3.errors import ModelError
from tests.models import make_model_folder

TEXTS = ["the quick brown fox", "raise a value error when a date is parsed"]
FAMILIES = ["qwen2", "llama", "gpt2"]


def trained(folder: str, scale: float = 0.1, **settings: object) -> ReasoningEmbedder:
    """A model whose trainable weights have all moved."""
    embedder = ReasoningEmbedder(folder, **settings)  # type: ignore[arg-type]
    embedder.build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in embedder.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return embedder


def embeddings(embedder: ReasoningEmbedder) -> Tensor:
    embedder.eval()
    with torch.no_grad():
        return embedder.embed(embedder.tokenize(TEXTS, "document"))


def logits(embedder: ReasoningEmbedder) -> Tensor:
    embedder.eval()
    with torch.no_grad():
        prompts = embedder.tokenize(TEXTS, "thinking")
        return embedder.score(prompts, embedder.tokenize_thoughts(TEXTS)).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_adapters_compute_what_the_live_ones_do(tmp_path: Path, family: str) -> None:
    live = trained(make_model_folder(tmp_path / "m", family), lora=LoRA(r=4, dropout=0.5, rslora=True))
    live.save_pretrained(tmp_path / "saved")
    again = ReasoningEmbedder(str(tmp_path / "saved"))
    again.build()
    assert again.embed_token_id == live.embed_token_id
    torch.testing.assert_close(embeddings(again), embeddings(live), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(again), logits(live), atol=1e-4, rtol=0)
    with without_adapters(live):
        assert (embeddings(live) - embeddings(again)).abs().max() > 0.01
        assert (logits(live) - logits(again)).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_folder_is_a_plain_model_of_its_family(tmp_path: Path, family: str) -> None:
    live = trained(make_model_folder(tmp_path / "m", family), lora=LoRA(r=4))
    live.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "saved"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.num_parameters() - base.num_parameters() == 32 * (1 if model.config.tie_word_embeddings else 2)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings == (family != "llama")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").convert_tokens_to_ids("<|embed_token|>") == len(
        AutoTokenizer.from_pretrained(tmp_path / "m")
    )


def test_training_goes_on_after_saving_as_if_nothing_had_been_saved(tmp_path: Path) -> None:
    live = trained(make_model_folder(tmp_path / "m", "llama"), lora=LoRA(r=4, dropout=0.1))
    live.freeze_output()
    before = {name: value.clone() for name, value in live.state_dict().items()}
    trains = [name for name, parameter in live.named_parameters() if parameter.requires_grad]
    live.save_pretrained(tmp_path / "saved")
    assert live.training
    assert [name for name, parameter in live.named_parameters() if parameter.requires_grad] == trains
    after = live.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    live.eval()
    live.embed(live.tokenize(TEXTS, "document")).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in live.parameters() if p.requires_grad)


@pytest.mark.parametrize("lora", [None, LoRA(r=4)])
def test_half_precision_is_kept(tmp_path: Path, lora: LoRA | None) -> None:
    live = trained(make_model_folder(tmp_path / "m"), dtype="bfloat16", lora=lora)
    live.save_pretrained(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dtype == torch.bfloat16


def test_adapters_that_half_precision_rounds_away_are_not_saved(tmp_path: Path) -> None:
    live = trained(make_model_folder(tmp_path / "m"), scale=0.0, dtype="bfloat16", lora=LoRA(r=4))
    with torch.no_grad():
        for name, parameter in live.named_parameters():
            if "lora_B" in name:
                parameter.fill_(2e-4)
    with pytest.raises(ModelError, match=r"merging lost them.*float32"):
        live.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_fresh_adapters_are_saved_as_the_base(tmp_path: Path) -> None:
    fresh = trained(make_model_folder(tmp_path / "m"), scale=0.0, lora=LoRA(r=4))
    fresh.save_pretrained(tmp_path / "saved")
    again = trained(str(tmp_path / "saved"), scale=0.0)
    torch.testing.assert_close(embeddings(again), embeddings(fresh), atol=1e-6, rtol=0)


Spoil = Callable[[nn.Module, str], Tensor]


def no_deltas(layer: nn.Module, name: str) -> Tensor:
    return getattr(getattr(layer, "base_layer", getattr(layer, "original_module", layer)), name)  # type: ignore[no-any-return]


def twice(layer: nn.Module, name: str) -> Tensor:
    return 2 * merged_weight(layer, name) - no_deltas(layer, name)


@pytest.mark.parametrize("spoil", [no_deltas, twice])
@pytest.mark.parametrize("scale", [0.1, 0.01])
def test_a_wrong_merge_is_found_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, scale: float
) -> None:
    live = trained(make_model_folder(tmp_path / "m"), scale, lora=LoRA(r=4))

    def spoilt(layer: nn.Module, name: str) -> Tensor:
        return (spoil if hasattr(layer, "lora_A") else merged_weight)(layer, name)

    monkeypatch.setattr(export, "merged_weight", spoilt)
    with pytest.raises(ModelError, match="nothing was saved"):
        live.save_pretrained(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    live = trained(make_model_folder(tmp_path / "m"))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()}
    with pytest.raises(ModelError, match=r"expected a new or empty folder .*/m'"):
        live.save_pretrained(tmp_path / "m")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()} == before
    (tmp_path / "empty").mkdir()
    live.save_pretrained(tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()


def test_an_error_while_writing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = trained(make_model_folder(tmp_path / "m"))

    def full(model: PreTrainedModel, folder: Path) -> None:
        folder.mkdir()
        (folder / "half").write_text("")
        raise OSError("no space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(OSError, match="no space"):
        live.save_pretrained(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("documents", ["direct", "thinking"])
def test_the_settings_are_written_beside_the_weights(tmp_path: Path, documents: Documents) -> None:
    live = trained(make_model_folder(tmp_path / "m"), max_query_tokens=7, max_document_tokens=9, max_thought_tokens=3)
    export.save_plain(live, tmp_path / "saved", documents)
    assert read_settings(tmp_path / "saved")["documents"] == documents
    again = embedder_from(tmp_path / "saved")
    again.build()
    assert (again.max_query_tokens, again.max_document_tokens, again.max_thought_tokens) == (7, 9, 3)
    torch.testing.assert_close(embeddings(again), embeddings(live), atol=1e-5, rtol=0)


def test_what_is_added_at_the_end_appears_with_the_rest_or_nothing_does(tmp_path: Path) -> None:
    live = trained(make_model_folder(tmp_path / "m"))

    def add(folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        assert not (tmp_path / "saved").exists()
        (folder / "more").write_text("")

    def fail(folder: Path) -> None:
        raise ModelError("something is wrong")

    with pytest.raises(ModelError, match="something is wrong"):
        export.save_plain(live, tmp_path / "saved", finish=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    export.save_plain(live, tmp_path / "saved", finish=add)
    assert (tmp_path / "saved" / "more").is_file()


def test_the_last_chat_template_in_use_is_the_only_one_written(tmp_path: Path) -> None:
    make_model_folder(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    tokenizer.chat_template = {"default": "other", "ours": tokenizer.chat_template}
    tokenizer.save_pretrained(tmp_path / "m")
    chosen = trained(str(tmp_path / "m"), chat_template="ours")
    chosen.save_pretrained(tmp_path / "saved")
    assert read_settings(tmp_path / "saved")["chat_template"] is None
    again = embedder_from(tmp_path / "saved")
    again.build()
    assert again.prompt_tokenizer.render(TEXTS, "direct") == chosen.prompt_tokenizer.render(TEXTS, "direct")
