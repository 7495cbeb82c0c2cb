"""Generations of an index on disk: each is written whole or not at all, and nothing in it changes afterwards.

A folder holds generations, each in a folder of its own that is named by a hash of its manifest::

    last.ckpt.index/
      5f0c…/manifest.json      what belongs together, and the size and checksum of every file
            state.safetensors  tensors that belong to the index, such as the age of each vector
            index/             what ``BaseIndex.write`` wrote

Whoever knows the name of a generation has all of it: a generation gets its name in one step, once all of its bytes are
on the disk, and a new one takes nothing from an old one but hard links to files that never change.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from srch3.environments.durable import checksum, stored, sync
from srch3.errors import CheckpointError
from srch3.indexes.base import BaseIndex
from srch3.indexes.saving import MANIFEST

FORMAT = 1
"""Version of the layout; another one is refused."""

_INDEX, _MANIFEST, _STATE, _PARTIAL = "index", "manifest.json", "state.safetensors", ".partial"
_SUMS = f"{_INDEX}/{MANIFEST}"
_SAMPLE = 256


class Identity(NamedTuple):
    """What vectors belong to.

    Attributes:
        corpus: Fingerprint of the documents.
        documents: How many rows there are.
        weights: Digest of the model, as :func:`weights_digest` gives it.
    """

    corpus: str
    documents: int
    weights: str


class Snapshot(NamedTuple):
    """What there is to save.

    Attributes:
        index: Written by its own ``write``.
        revision: A number that changes whenever the index does; while it stays, files are linked and not written.
        corpus: Fingerprint of the documents.
        step: The optimizer step that this is the state of.
        tensors: Whatever else has to be restored, by name, on any device.
        values: The same of plain values, which JSON can hold.
        files: Writers of further files, by name.
    """

    index: BaseIndex  # type: ignore[assignment]  # in place of the method of tuples
    revision: int
    corpus: str
    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    files: Mapping[str, Callable[[Path], None]] = {}


class Generation(NamedTuple):
    """A saved state, every file of which has the size and checksum that it was written with.

    The files of the index are checked when ``BaseIndex.read`` reads them, against a manifest that was checked here.

    Attributes:
        folder: Where its files are.
        identity: What the vectors belong to.
        step: The optimizer step that it is the state of.
        values: Plain values, as they were given.
    """

    folder: Path
    identity: Identity
    step: int
    values: dict[str, Any]

    @property
    def index_folder(self) -> Path:
        """What ``BaseIndex.read`` reads."""
        return self.folder / _INDEX

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, on the CPU.

        Raises:
            CheckpointError: The file cannot be read.
        """
        try:
            return load_file(self.folder / _STATE)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.folder / _STATE, str(error)) from error

    def check(self, present: Identity) -> None:
        """Refuses vectors of other documents or another model.

        Raises:
            CheckpointError: They are.
        """
        saved = self.identity
        if (saved.corpus, saved.documents) != (present.corpus, present.documents):
            raise CheckpointError(
                f"ckpt_path: expected the corpus that the saved run trained on ({saved.documents} documents, "
                f"fingerprint {saved.corpus[:12]}); got {present.documents} documents, fingerprint "
                f"{present.corpus[:12]}; resume with the same data settings, or start a new run with init_from"
            )
        if saved.weights != present.weights:
            raise CheckpointError(
                f"ckpt_path: expected the weights that encoded the documents of {self.folder.parent} (digest "
                f"{saved.weights[:12]}); got others ({present.weights[:12]}); keep a checkpoint and the folder beside "
                "it together"
            )


def weights_digest(weights: Mapping[str, Any]) -> str:
    """A number that tells models apart, at a cost that hardly grows with their size.

    It covers the name, type and shape of every tensor, and up to 256 elements of each, evenly spaced. A training step
    changes nearly every element, and so the digest; a change of single elements may escape it.

    Args:
        weights: Tensors by name, as in a ``state_dict``; anything else is left out.
    """
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, -(-len(flat) // _SAMPLE))]
            digest.update(sample.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_generation(folder: Path, snapshot: Snapshot, weights: str, same_index: Path | None = None) -> str:
    """Writes a generation beside those that are there.

    Killed at any point, this leaves earlier generations as they were, and at most a hidden one for the next to remove.

    Args:
        folder: Receives the generation; made where absent.
        snapshot: What to save.
        weights: Digest of the model.
        same_index: A generation with the very same index, on the same disk, whose files are linked.

    Returns:
        The name of the generation.

    Raises:
        CheckpointError: The file system refuses, for example because the disk is full.
    """
    partial = folder / _PARTIAL
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / _INDEX).mkdir(parents=True)
        if not _link_index(partial, same_index):
            _write_index(partial, snapshot.index)
        _write_state(partial, snapshot)
        identity = Identity(snapshot.corpus, len(snapshot.index), weights)
        manifest = {
            "format": FORMAT,
            "identity": identity._asdict(),
            "step": snapshot.step,
            "values": dict(snapshot.values),
            "files": {str(file): stored(partial / file) for file in (_SUMS, _STATE, *snapshot.files)},
        }
        return _publish(partial, json.dumps(manifest, indent=1, sort_keys=True).encode())
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"checkpoint: cannot write the index to {folder}: {reason}; what was saved before is intact: make room, "
            "and resume from the last checkpoint"
        ) from error


def open_generation(folder: Path, name: str) -> Generation:
    """Finds a generation and checks its files, those of the index excepted, which check themselves.

    Args:
        folder: Holds it.
        name: As :func:`write_generation` gave it.

    Raises:
        CheckpointError: It is absent, or a file of it is missing, truncated or changed.
    """
    generation = folder / name
    if not re.fullmatch(r"[0-9a-f]{32}", name) or not generation.is_dir():
        raise CheckpointError(
            f"ckpt_path: expected the checkpoint's index in {generation}; got no such folder; keep {folder.name} beside"
            " the checkpoint, or start a new run with init_from"
        )
    manifest = _read_manifest(generation)
    for file, saved in manifest["files"].items():
        path = generation / file
        if not path.is_file():
            raise _damaged(path, "is missing")
        size = path.stat().st_size
        if size != saved["bytes"]:
            raise _damaged(path, f"has {size} bytes instead of {saved['bytes']}")
        if checksum(path) != saved["crc32"]:
            raise _damaged(path, "has other contents than were written")
    return Generation(generation, Identity(**manifest["identity"]), manifest["step"], manifest["values"])


def keep_only(folder: Path, name: str | None) -> None:
    """Removes all generations but one, and what interrupted calls left.

    Args:
        folder: Holds them; may be absent.
        name: The one that stays; without it the folder goes too.
    """
    if name is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for entry in folder.iterdir():
        if entry.name != name:
            shutil.rmtree(entry, ignore_errors=True)


def _write_index(partial: Path, index: BaseIndex) -> None:
    index.write(partial / _INDEX)
    for path in (partial / _INDEX).iterdir():
        sync(path)


def _link_index(partial: Path, source: Path | None) -> bool:
    """Links the index of another generation, which is on the disk already; says whether that was possible."""
    if source is None:
        return False
    try:
        for path in (source / _INDEX).iterdir():
            (partial / _INDEX / path.name).hardlink_to(path)
    except OSError:
        for path in (partial / _INDEX).iterdir():
            path.unlink()
        return False
    return True


def _write_state(partial: Path, snapshot: Snapshot) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.tensors.items()}
    save_file(tensors, partial / _STATE)
    for name, write in snapshot.files.items():
        write(partial / name)


def _publish(partial: Path, manifest: bytes) -> str:
    """Gives a generation its name, once it is on the disk."""
    (partial / _MANIFEST).write_bytes(manifest)
    sync(partial / _MANIFEST)
    for place in (partial / _INDEX, partial):
        sync(place)
    name = _name(manifest)
    if (partial.parent / name).is_dir():
        shutil.rmtree(partial)
    else:
        partial.rename(partial.parent / name)
    for place in (partial.parent, partial.parent.parent):
        sync(place)
    return name


def _read_manifest(generation: Path) -> dict[str, Any]:
    path = generation / _MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    if _name(content) != generation.name:
        raise _damaged(path, "has other contents than were written")
    manifest: dict[str, Any] = json.loads(content)
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"ckpt_path: expected an index of format {FORMAT}; got {manifest['format']} in {path}; resume with the "
            "version of srch3 that saved it"
        )
    return manifest


def _name(manifest: bytes) -> str:
    return blake2b(manifest, digest_size=16).hexdigest()


def _damaged(path: Path, how: str) -> CheckpointError:
    return CheckpointError(f"ckpt_path: {path} {how}; the saved index is damaged, resume from another checkpoint")
