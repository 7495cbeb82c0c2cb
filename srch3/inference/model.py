"""Finding a trained model: in a folder that was exported, or in the checkpoint of a run."""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.checkpoint import load_backbone
from srch3.backbones.settings import SETTINGS_FILE, Documents, embedder_from, read_settings, settings_of
from srch3.errors import CheckpointError, ConfigError, ModelError

CONFIG_FILE = "config.yaml"

_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_LEVELS = 4
_PROBE = "What is searched for, and 12 words about it."
_UNHASHED = ("format", "chat_template", "mode")
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache")


class TrainedModel(NamedTuple):
    """A model, and what its weights do not say.

    Attributes:
        backbone: Built, in evaluation mode, on the CPU, in the type that its weights were trained in.
        documents: How documents are embedded.
    """

    backbone: ReasoningEmbedder
    documents: Documents


def load_model(model: str | Path, trusted: bool = True) -> TrainedModel:
    """Loads what ``model`` names.

    Args:
        model: A folder with ``srch3.json``, or a checkpoint file whose run's ``config.yaml`` lies in one of the folders
            above it.
        trusted: Whether a run's configuration may name classes that have to be imported from outside srch3.

    Raises:
        ModelError: It is neither, or the model cannot be loaded.
        CheckpointError: The checkpoint cannot be used.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        backbone, documents = embedder_from(path), cast(Documents, read_settings(path)["documents"])
        backbone.build()
    elif path.is_file():
        backbone, documents = _from_checkpoint(path, trusted)
    else:
        raise ModelError(
            f"model: expected a folder with {SETTINGS_FILE}, as `python -m srch3 export` writes it, or the checkpoint "
            f"file of a run; got {str(model)!r}, which does not exist"
        )
    if documents == "thinking":
        backbone.prompt_tokenizer.check_window(backbone.window, backbone.max_thought_tokens, ["thinking_document"])
    backbone.eval().requires_grad_(False)
    return TrainedModel(backbone, documents)


def revision_of(model: TrainedModel) -> str:
    """Hexadecimal digits that two models share only if they embed alike: same weights, vocabulary and settings.

    Weights count as float32, so that the type in which they are kept makes no difference. A merged adapter is another
    model than the one it was merged into.
    """
    backbone = model.backbone
    lm, rendered = backbone.causal_lm, backbone.prompt_tokenizer
    settings = settings_of(backbone, model.documents)
    described = {
        "settings": {name: value for name, value in settings.items() if name not in _UNHASHED},
        "prompts": [rendered.tokenize([_PROBE], role) for role in ("document", "direct", "thinking")],
        "vocabulary": sorted(backbone.tokenizer.get_vocab().items()),
        "normaliser": [_tokenizer_part(backbone, part) for part in ("normalizer", "pre_tokenizer", "decoder")],
        "stops": backbone.stop_ids,
        "config": {name: value for name, value in lm.config.to_dict().items() if name not in _VOLATILE},
    }
    whole = hashlib.blake2b(json.dumps(described, sort_keys=True, default=str).encode(), digest_size=20)
    tensors = sorted([*lm.named_parameters(), *lm.named_buffers()], key=lambda item: item[0])
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        for (name, _), digest in zip(tensors, pool.map(_digest, (tensor for _, tensor in tensors)), strict=True):
            whole.update(name.encode() + digest)
    return whole.hexdigest()


def _tokenizer_part(backbone: ReasoningEmbedder, part: str) -> Any:
    return json.loads(backbone.tokenizer.backend_tokenizer.to_str()).get(part)


def _digest(tensor: Tensor) -> bytes:
    value = tensor.detach().cpu()
    value = value.float() if value.is_floating_point() else value
    return hashlib.blake2b(value.contiguous().numpy().data.cast("B") if value.numel() else b"").digest()


def _from_checkpoint(path: Path, trusted: bool) -> tuple[ReasoningEmbedder, Documents]:
    config = _config_of(path)
    settings = _settings_of_module(config)
    if not trusted and (strange := next(_strange_classes(settings["backbone"]), None)):
        raise CheckpointError(
            f"model: expected {config} to name classes of srch3, or of modules that are imported already; got "
            f"{strange!r}, which is imported only for a model that you name yourself: give it as model"
        )
    if settings.get("frozen", "nothing") != "nothing":
        raise CheckpointError(
            f"model: expected a run that trained the whole model; got {str(path)!r} of a run with `frozen: "
            f"{settings['frozen']}`, whose documents are embedded by the model of its init_from and not by these "
            "weights; use a run with `frozen: nothing`"
        )
    backbone = _backbone_of(settings["backbone"], config)
    backbone.build()
    load_backbone(backbone, path, "model")
    documents = settings.get("documents", "direct")
    if documents not in get_args(Documents):
        raise ConfigError(f"{config}: expected model.init_args.documents to be direct or thinking; got {documents!r}")
    return backbone, documents


def _strange_classes(settings: Any) -> Iterator[str]:
    """Whatever may be the path of a class that was not imported yet."""
    if isinstance(settings, Mapping):
        for value in settings.values():
            yield from _strange_classes(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _strange_classes(value)
    elif isinstance(settings, str) and _CLASS_PATH.fullmatch(settings) and not _known(settings.rpartition(".")[0]):
        yield settings


def _known(module: str) -> bool:
    return module in sys.modules or module.partition(".")[0] == "srch3"


def _config_of(checkpoint: Path) -> Path:
    """The configuration of the run that a checkpoint belongs to: above it, or in the last ``version_*`` beside it."""
    above = list(checkpoint.absolute().parents)[:_LEVELS]
    for folder in above:
        if (folder / CONFIG_FILE).is_file():
            return folder / CONFIG_FILE
    if beside := sorted(checkpoint.parent.glob(f"version_*/{CONFIG_FILE}"), key=lambda path: path.stat().st_mtime):
        return beside[-1]
    raise CheckpointError(
        f"model: expected {CONFIG_FILE} of the run in a folder above the checkpoint {str(checkpoint)!r}; got none "
        f"up to {str(above[-1])!r}; copy it beside the checkpoint, or export the model"
    )


def _settings_of_module(config: Path) -> Mapping[str, Any]:
    """The arguments of the module that was trained."""
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8"))
        settings = found["model"]["init_args"]
        if not isinstance(settings["backbone"], dict):
            raise TypeError("another kind of value")
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{config}: expected the configuration of a run with model.init_args.backbone; got one that has none "
            f"({' '.join(str(error).split())[:120]}); only models that embed can be used"
        ) from error
    return cast(Mapping[str, Any], settings)


def _backbone_of(settings: Mapping[str, Any], config: Path) -> ReasoningEmbedder:
    """What was configured, with the folder of its base found."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ReasoningEmbedder, "backbone")
    try:
        parsed = parser.instantiate(parser.parse_object({"backbone": dict(settings)}))
    except (argparse.ArgumentError, ValueError) as error:
        raise ConfigError(
            f"{config}: expected model.init_args.backbone as this version of srch3 takes it; got other settings: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    backbone: ReasoningEmbedder = parsed.backbone
    places = [place for place in _places(backbone.name, config) if place.is_dir()]
    if not places and (backbone.name.count("/") != 1 or backbone.name.startswith((".", "/", "~"))):
        raise ModelError(
            f"model.init_args.backbone.init_args.model: expected the base folder {backbone.name!r}, which {config} "
            f"names, here or in a folder above that file; got none; put it there, or export the model"
        )
    backbone.name = str(places[0]) if places else backbone.name
    return backbone


def _places(name: str, config: Path) -> Iterator[Path]:
    """Where a base may be: relative to the working directory, or to where the training was started."""
    path = Path(name).expanduser()
    yield path
    yield from (folder / path for folder in list(config.parents)[:_LEVELS])
