"""From a checkpoint to a model folder that others load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from srch3.backbones import ReasoningEmbedder
from srch3.backbones.export import save_plain
from srch3.backbones.settings import Documents
from srch3.errors import ConfigError, DataError, ModelError
from srch3.inference.model import load_model
from srch3.inference.model_card import TRAINING_FILE, Facts, model_card
from srch3.inference.provenance import provenance
from srch3.inference.root_template import PROBES, ROLES
from srch3.inference.sentence_transformers_folder import (
    Compared,
    compare_direct,
    least_cosine,
    live_embeddings,
    write_direct_folder,
    write_thinking_folder,
)

_SAME = 1e-6
"""Difference of two cosines that rounding explains."""


class Exported(NamedTuple):
    """What was written.

    Attributes:
        folder: Where.
        documents: How documents are embedded; where it is ``thinking``, plain sentence-transformers cannot.
        compared: How the folder embeds through other libraries; empty where none of them can.
        base: Least cosine with the base's embeddings; none where the base is not known.
        precision: Of the weights that were written.
    """

    folder: Path
    documents: Documents
    compared: list[Compared]
    base: float | None
    precision: str


def export_model(
    model: str | Path,
    output: str | Path,
    name: str | None = None,
    data: str = "",
    results: str | Path | None = None,
) -> Exported:
    """Writes a model as a folder for srch3, transformers, sentence-transformers and mteb, and a card.

    Adapters are merged. What was written is loaded again with transformers and, where it is installed, with
    sentence-transformers, and must embed as the model does and unlike its base. The folder appears whole or not at all.

    Args:
        model: A checkpoint of a run, or an exported folder.
        output: New or empty.
        name: What programs in the card call it; by default the folder's name.
        data: What the card says of the training data.
        results: ``results.json`` of the command ``evaluate``, for the card.

    Raises:
        ModelError: What was written is another model, or the base; or the model or its prompts cannot be exported.
        CheckpointError: The checkpoint cannot be used.
        DataError: The results cannot be read.
    """
    folder, figures = Path(output).expanduser().absolute(), _read_results(results)
    embedder, documents = load_model(model)
    origin = provenance(model)
    base = _cosine_with_base(embedder) if origin.config else None
    compared: list[Compared] = []

    def finish(partial: Path) -> None:
        direct = write_direct_folder(embedder, partial) if documents == "direct" else None
        if direct:
            compared.extend(compare_direct(embedder, partial, direct))
        _refuse_the_base(embedder, base, compared)
        write_thinking_folder(partial)
        if origin.config:
            settings = yaml.safe_dump(origin.config, sort_keys=False, allow_unicode=True)
            (partial / TRAINING_FILE).write_text(settings, encoding="utf-8")
        facts = Facts(name or folder.name, embedder, documents, origin, direct, compared, data, figures)
        (partial / "README.md").write_text(model_card(facts), encoding="utf-8")

    save_plain(embedder, folder, documents, finish)
    return Exported(folder, documents, compared, base, embedder.dtype)


def _cosine_with_base(embedder: ReasoningEmbedder) -> float:
    """Least cosine with the embeddings of the model before training."""
    base = ReasoningEmbedder(
        embedder.name,
        prompts=embedder.prompts,
        embed_token=embedder.embed_token,
        max_query_tokens=embedder.max_query_tokens,
        max_document_tokens=embedder.max_document_tokens,
        max_thought_tokens=embedder.max_thought_tokens,
        truncation=embedder.truncation,
        dtype=embedder.dtype,
        quantization=embedder.quantization,
        lora=embedder.lora,
        seed=embedder.seed,
        chat_template=embedder.chat_template,
    )
    base.build()
    return min(
        least_cosine(live_embeddings(embedder, PROBES, role), live_embeddings(base, PROBES, role)) for role in ROLES
    )


def _refuse_the_base(embedder: ReasoningEmbedder, base: float | None, compared: list[Compared]) -> None:
    if base is None:
        return
    if 1 - base <= _SAME:
        raise ModelError(
            f"model: expected a model that embeds unlike its base {embedder.name!r}; got one with the same embeddings: "
            "its training changed nothing; nothing was exported"
        )
    worst = min((found.within for found in compared), default=1.0)
    if 1 - worst > 0.25 * (1 - base) + _SAME:
        raise ModelError(
            f"expected the exported folder to be nearer to the trained model than its base {embedder.name!r} is, got "
            f"cosines of {worst:.6f} and {base:.6f} with it; nothing was exported (float32 keeps small changes)"
        )


def _read_results(path: str | Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"results: expected results.json of the command evaluate; got {str(path)!r}: {error}"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("systems"), dict):
        raise DataError(f"results: expected results.json of the command evaluate; got {str(path)!r} without systems")
    return found


def check_hub_name(name: str) -> None:
    """Refuses what cannot be the name of a model on the hub.

    Raises:
        ConfigError: It cannot.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(
            f"push_to_hub: expected a name such as organisation/model; got {name!r}: {str(error).splitlines()[0]}"
        ) from error


def push(folder: Path, name: str, private: bool) -> str:
    """Uploads a folder to the hub, with the login of ``hf auth login``.

    Args:
        folder: Everything in it is uploaded.
        name: ``organisation/model``.
        private: Whether others cannot see it; has no effect on a model that is there already.

    Returns:
        Its address.

    Raises:
        ConfigError: The hub refuses.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model exported by srch3")
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(
            f"push_to_hub: expected the hub to take {name!r}; got {' '.join(str(error).split())[:300]}; log in with "
            f"`hf auth login`; the folder {folder} is complete"
        ) from error
    return str(address)
