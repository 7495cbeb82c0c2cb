"""The files of a saved index: a manifest that says what they are, raw tensors, and whatever a subclass adds."""

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from srch3.errors import CheckpointError

MANIFEST = "index.json"
VECTORS = "vectors.safetensors"

_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.int8: "I8", torch.int64: "I64", torch.bool: "BOOL",
}  # fmt: skip
_PART = 1 << 22


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file a part at a time, so that a matrix beyond memory needs no copy in memory."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            for part in tensor.detach().flatten().split(_PART):
                file.write(part.cpu().numpy().data)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped.

    Raises:
        CheckpointError: It is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise damaged(path, "tensors", f"{error}") from error


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, with the size and checksum of every file beside it."""
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    text = json.dumps({**manifest, "files": files}, indent=1) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest.

    Raises:
        CheckpointError: It is missing or cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, "a manifest", f"{error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise damaged(path, "a manifest with the names of its files", "another JSON value")
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any], checksums: bool = True) -> None:
    """Compares every file with what the manifest says about it.

    Args:
        folder: Where the files are.
        manifest: What :func:`read_manifest` gave.
        checksums: Whether to read all of every file; by its size alone a truncated one is found.

    Raises:
        CheckpointError: One is missing, truncated or changed.
    """
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise damaged(path, "a file", "none")
        if path.stat().st_size != expected["bytes"]:
            raise damaged(path, f"{expected['bytes']} bytes", f"{path.stat().st_size}")
        if checksums and (found := _fingerprint(path)) != expected:
            raise damaged(path, f"checksum {expected['crc32']}", f"{found['crc32']}")


def damaged(path: Path, expected: str, got: str) -> CheckpointError:
    """What to raise about a file that is not as it was written."""
    return CheckpointError(
        f"{path}: expected {expected}; got {got.splitlines()[0] if got else 'nothing'}; the saved index is damaged, "
        "resume from another checkpoint"
    )


def _fingerprint(path: Path) -> dict[str, int]:
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(_PART):
            checksum = zlib.crc32(part, checksum)
    return {"bytes": path.stat().st_size, "crc32": checksum}


def check_manifest(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compares a manifest with what it should say; settings one by one.

    Raises:
        CheckpointError: It says something else.
    """
    pairs = {name: (found.get(name), mine) for name, mine in expected.items() if name != "settings"}
    if "settings" in expected and isinstance(there := found.get("settings"), dict):
        mine = expected["settings"]
        pairs |= {name: (there.get(name), mine.get(name)) for name in [*mine, *(there.keys() - mine.keys())]}
    for name, (saved, wanted) in pairs.items():
        if saved != wanted:
            raise CheckpointError(
                f"index: the saved one has {name}={saved!r}; got {wanted!r}; resume with the index settings of the "
                "saved run"
            )
