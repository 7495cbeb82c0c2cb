"""Reasoning at query time within sentence-transformers, which has to be asked for: it is code of ours that runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules.module import Module

from srch3.backbones.export import save_plain
from srch3.errors import DataError, ModelError
from srch3.inference.embedder import Embedder
from srch3.types import Mode

_MODEL = "model"


class ThinkingModule(Module):
    """Queries are embedded after a thought, documents as they were in training; ends in ``sentence_embedding``.

    ``SentenceTransformer(folder + "/thinking", trust_remote_code=True)`` loads it from an exported folder, and
    ``SentenceTransformer(modules=[ThinkingModule(Embedder.load(folder))])`` does without trust, since the class was
    imported. ``encode_document`` embeds documents; ``encode`` and ``encode_query`` embed queries. Prompts are part of
    the model: others cannot be given.

    Args:
        embedder: The model.
        mode: How queries are embedded.
    """

    def __init__(self, embedder: Embedder, mode: Mode = "thinking") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.backbone = embedder.backbone
        self.embedder = embedder
        self.mode = mode

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Texts as they are; they become tokens when their role is known, within :meth:`forward`.

        Args:
            inputs: Texts.
            prompt: None.
            kwargs: ``task`` says whether they are documents.

        Raises:
            DataError: A prompt was given, or something is not a text.
        """
        if prompt:
            raise DataError(f"prompt: expected none, since the model brings its own; got {prompt!r}; leave it out")
        if not all(isinstance(text, str) for text in inputs):
            raise DataError("inputs: expected texts alone; got another kind among them")
        return {"texts": list(inputs), "task": kwargs.get("task")}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Embeds; there are no gradients."""
        texts = features["texts"]
        if features.get("task") == "document":
            found = self.embedder.encode_documents(texts)
        else:
            found = self.embedder.encode_queries(texts, self.mode)
        features["sentence_embedding"] = torch.from_numpy(found).to(self.embedder.device)
        return features

    def get_embedding_dimension(self) -> int:
        """Width of an embedding."""
        return self.embedder.dim

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Writes the model into a folder of its own within ``output_path``."""
        folder = Path(output_path)
        save_plain(self.backbone, (folder / _MODEL).absolute(), self.embedder.documents)
        (folder / self.config_file_name).write_text(
            json.dumps({"model": _MODEL, "mode": self.mode}, indent=2) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", *args: Any, **kwargs: Any) -> "ThinkingModule":
        """Loads what ``config.json`` in a folder names.

        Args:
            model_name_or_path: A folder.
            subfolder: Within it.
            args: Of no meaning here.
            kwargs: ``model_kwargs`` may hold a ``precision``, as `Embedder.load` takes it; float32 by default.

        Raises:
            ModelError: There is no such folder or no such file in it, or the model cannot be loaded.
        """
        folder = Path(model_name_or_path) / subfolder
        try:
            config = json.loads((folder / cls.config_file_name).read_text(encoding="utf-8"))
            model, mode = folder / str(config["model"]), str(config["mode"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"expected {cls.config_file_name} with `model` and `mode` in a folder; got {str(folder)!r} without: "
                f"{error}; name the folder `thinking` of an export that is on this machine"
            ) from error
        precision = (kwargs.get("model_kwargs") or {}).get("precision", "float32")
        return cls(Embedder.load(model.resolve(), precision=precision), mode)
