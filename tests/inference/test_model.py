import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from srch3.backbones import LoRA, ReasoningEmbedder
from srch3.backbones.settings import describe_prompts
from srch3.errors import CheckpointError, ConfigError, ModelError, SearchError
from srch3.inference.model import TrainedModel, load_model, revision_of
from tests.models import make_model_folder
from tests.trained import SHORT, trained_embedder, trained_folder

TEXTS = ["parse a date", "a much longer text than the model reads: a b c d e f g h i j k l m n"]


def embeddings(backbone: ReasoningEmbedder) -> torch.Tensor:
    with torch.no_grad():
        return backbone.embed(backbone.tokenize(TEXTS, "document"))


def config_of(backbone: ReasoningEmbedder, **more: Any) -> dict[str, Any]:
    """What a run would save, as far as it matters."""
    arguments = {"model": backbone.name, "prompts": describe_prompts(backbone.prompts), **SHORT}
    if backbone.lora:
        arguments["lora"] = {"class_path": "srch3.backbones.LoRA", "init_args": {"r": backbone.lora.r}}
    described = {"class_path": "srch3.backbones.ReasoningEmbedder", "init_args": arguments}
    return {"trainer": {"max_steps": 1}, "model": {"class_path": "any", "init_args": {"backbone": described, **more}}}


def save_run(folder: Path, backbone: ReasoningEmbedder, **more: Any) -> Path:
    """Writes the files of a run: its configuration, and a checkpoint with its optimizer."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of(backbone, **more)))
    weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    path = folder / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": weights | {"metrics.x": torch.zeros(1)}, "optimizer_states": [1]}, path)
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> ReasoningEmbedder:
    return trained_embedder(tmp_path_factory.mktemp("base"))


@pytest.fixture
def refused() -> Callable[..., str]:
    def refusal(path: Path, kind: type[SearchError] = CheckpointError) -> str:
        with pytest.raises(kind) as error:
            load_model(path)
        return str(error.value)

    return refusal


def test_a_checkpoint_and_an_exported_folder_are_the_same_model(backbone: ReasoningEmbedder, tmp_path: Path) -> None:
    backbone.save_pretrained(tmp_path / "exported")
    loaded = [load_model(tmp_path / "exported"), load_model(save_run(tmp_path / "run", backbone))]
    for model in loaded:
        torch.testing.assert_close(embeddings(model.backbone), embeddings(backbone), atol=1e-5, rtol=0)
        assert not model.backbone.training
        assert model.documents == "direct"
        assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert revision_of(loaded[0]) == revision_of(loaded[1]) == revision_of(TrainedModel(backbone, "direct"))


def test_adapters_are_loaded(tmp_path: Path) -> None:
    adapted = trained_embedder(tmp_path / "base", lora=LoRA(r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    loaded = load_model(save_run(tmp_path / "run", adapted)).backbone
    torch.testing.assert_close(embeddings(loaded), embeddings(adapted), atol=1e-5, rtol=0)


def test_documents_may_think(backbone: ReasoningEmbedder, tmp_path: Path) -> None:
    assert load_model(save_run(tmp_path, backbone, documents="thinking")).documents == "thinking"


def test_every_part_of_a_model_counts_in_its_revision(tmp_path: Path) -> None:
    plain = trained_embedder(tmp_path / "base")
    first = revision_of(TrainedModel(plain, "direct"))
    assert len(first) == 40
    assert revision_of(TrainedModel(plain, "thinking")) != first
    for name, value in {"max_document_tokens": 11, "max_thought_tokens": 4, "truncation": "left"}.items():
        before = getattr(plain, name)
        setattr(plain, name, value)
        assert revision_of(TrainedModel(plain, "direct")) != first
        setattr(plain, name, before)
    parameter = list(plain.parameters())[-1]
    before = parameter.detach().clone()
    parameter.data.view(-1)[3] = torch.nextafter(before.view(-1)[3], torch.tensor(9.0))
    assert revision_of(TrainedModel(plain, "direct")) != first
    parameter.data.copy_(before)
    assert revision_of(TrainedModel(plain, "direct")) == first
    assert revision_of(TrainedModel(plain.to(torch.float64), "direct")) == first


def test_a_base_is_found_from_the_folder_where_training_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = save_run(tmp_path / "runs/version_0", trained_embedder(Path("base")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_model(checkpoint).backbone.dim == 32


def test_a_configuration_may_lie_in_a_version_beside_the_checkpoint(
    backbone: ReasoningEmbedder, tmp_path: Path
) -> None:
    saved = save_run(tmp_path / "run", backbone)
    for number, documents in enumerate(["direct", "thinking"]):
        folder = tmp_path / "stage" / f"version_{number}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config_of(backbone, documents=documents)))
        os.utime(folder / "config.yaml", (number, number))
    path = saved.rename(tmp_path / "stage" / "best.ckpt")
    assert load_model(path).documents == "thinking"


def test_a_missing_base_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    backbone = trained_embedder(tmp_path / "base")
    checkpoint = save_run(tmp_path / "run", backbone)
    (tmp_path / "base").rename(tmp_path / "moved")
    complaint = refused(checkpoint, ModelError)
    assert f"expected the base folder '{tmp_path}/base', which {tmp_path}/run/config.yaml names" in complaint


@pytest.mark.parametrize("frozen", ["documents", "embedder"])
def test_runs_with_frozen_parts_are_refused(
    frozen: str, backbone: ReasoningEmbedder, tmp_path: Path, refused: Callable[..., str]
) -> None:
    complaint = refused(save_run(tmp_path, backbone, frozen=frozen))
    assert f"`frozen: {frozen}`, whose documents are embedded by the model of its init_from" in complaint
    assert load_model(save_run(tmp_path / "whole", backbone, frozen="nothing")).documents == "direct"


def test_a_strangers_configuration_imports_nothing(backbone: ReasoningEmbedder, tmp_path: Path) -> None:
    path = save_run(tmp_path / "run", backbone)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert load_model(path, trusted=False).documents == "direct"
    for place in ({"class_path": "gift.Prompts"}, "gift.Prompts", [{"x": "gift.parts.Prompts"}]):
        config["model"]["init_args"]["backbone"]["init_args"]["prompts"] = place
        (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(
            CheckpointError, match=r"got .gift[.\w]*Prompts., which is imported only for a model that you"
        ):
            load_model(path, trusted=False)


@pytest.mark.parametrize(("name", "value"), [("rms_norm_eps", 0.5), ("hidden_act", "gelu")])
def test_settings_of_the_architecture_count_in_the_revision(
    name: str, value: Any, backbone: ReasoningEmbedder, tmp_path: Path
) -> None:
    trained_folder(tmp_path / "model")
    before = load_model(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {name: value, "_name_or_path": "elsewhere"}))
    assert revision_of(load_model(tmp_path / "model")) != revision_of(before)


def test_what_is_no_model_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "expected a folder with srch3.json" in refused(tmp_path / "nothing", ModelError)
    assert "which does not exist" in refused(tmp_path / "nothing", ModelError)
    assert "which has none" in refused(Path(make_model_folder(tmp_path / "plain")), ModelError)


def test_a_checkpoint_without_its_configuration_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "a/b/c/d/best.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert f"expected config.yaml of the run in a folder above the checkpoint '{path}'" in refused(path)


@pytest.mark.parametrize("text", ["model: {}", "a: [", "- 1", "model: {init_args: {backbone: 3}}", ""])
def test_another_configuration_is_named(text: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "best.ckpt").touch()
    (tmp_path / "config.yaml").write_text(text)
    complaint = refused(tmp_path / "best.ckpt")
    assert complaint.startswith(f"{tmp_path}/config.yaml: expected the configuration of a run with model.init_args")


def test_settings_of_another_version_are_named(
    backbone: ReasoningEmbedder, tmp_path: Path, refused: Callable[..., str]
) -> None:
    checkpoint = save_run(tmp_path, backbone, documents="both")
    assert "expected model.init_args.documents to be direct or thinking; got 'both'" in refused(checkpoint, ConfigError)
    config = config_of(backbone)
    config["model"]["init_args"]["backbone"]["init_args"]["colour"] = "red"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "expected model.init_args.backbone as this version" in refused(checkpoint, ConfigError)


def test_a_broken_checkpoint_is_named(backbone: ReasoningEmbedder, tmp_path: Path, refused: Callable[..., str]) -> None:
    checkpoint = save_run(tmp_path, backbone)
    content = checkpoint.read_bytes()
    for broken in (b"", b"text", content[: len(content) // 2]):
        checkpoint.write_bytes(broken)
        assert f"model: expected a checkpoint of srch3, such as best.ckpt of a run; got '{checkpoint}'" in refused(
            checkpoint
        )


def test_weights_of_another_shape_are_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    wide = trained_embedder(tmp_path / "wide")
    checkpoint = save_run(tmp_path / "run", wide)
    make_model_folder(tmp_path / "wide", family="llama", chat=False, spare_rows=8)
    assert "model: expected weights that fit" in refused(checkpoint)


def test_folders_need_their_thoughts_to_fit(tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = trained_folder(tmp_path / "model", max_thought_tokens=8)
    text = (folder / "srch3.json").read_text().replace('"max_thought_tokens": 8', '"max_thought_tokens": 2000')
    (folder / "srch3.json").write_text(text)
    assert "expected at most 1024 tokens, which the model reads" in refused(folder, ConfigError)
