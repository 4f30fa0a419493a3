"""Shards, the cache's file format: keys and logits in a safetensors file."""

import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16


HEADER_LIMIT = 4096  # bytes; ours have under 200

# Fixed-width bytes compare like the 16 bytes they are: numpy hides trailing zeros, but pads with them too.
Keys = NDArray[np.bytes_]


def as_keys(keys: Sequence[bytes] | NDArray[Any]) -> Keys:
    """Row keys as an array `S16 [N]`, from 16 bytes each, `S16 [N]` or uint8 `[N, 16]`.

    Raises:
        ValueError: when a key has another length.
    """
    if isinstance(keys, np.ndarray):
        if keys.dtype == f"S{KEY_BYTES}" and keys.ndim == 1:
            return keys
        if keys.dtype == np.uint8 and keys.ndim == 2 and keys.shape[1] == KEY_BYTES:
            return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").reshape(-1)
        raise ValueError(f"row keys are S16 [N] or uint8 [N, 16], not {keys.dtype} {list(keys.shape)}")
    if wrong := set(map(len, keys)) - {KEY_BYTES}:
        raise ValueError(f"a row key has {KEY_BYTES} bytes, not {min(wrong)}")
    return np.frombuffer(b"".join(keys), f"S{KEY_BYTES}")


class Damaged(Exception):
    """A shard is not what was written."""


@dataclass(frozen=True)
class _Shard:
    keys: Keys
    logits: NDArray[np.float32]


# Files ------------------------------------------------------------------------------------------------------


def _open_shard(file: Path, classes: int | None = None) -> _Shard:
    """Map a shard into memory once its checksum is verified.

    Raises:
        Damaged: when it is not what was written.
        OSError: when it cannot be read.
    """
    with file.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.stem:
            raise Damaged("its bytes do not match its checksum")
        layout = _read_layout(stream)
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    keys = np.frombuffer(mapped, f"S{KEY_BYTES}", layout.rows, layout.keys)
    logits = np.frombuffer(mapped, "<f4", layout.rows * layout.classes, layout.logits)
    if not (keys[1:] > keys[:-1]).all():
        raise Damaged("its keys do not ascend")
    if not np.isfinite(logits).all():
        raise Damaged("it has logits that are not finite")
    if classes not in (None, layout.classes):
        raise Damaged(f"it has {layout.classes} classes, not {classes}")
    return _Shard(keys, logits.reshape(layout.rows, layout.classes))


@dataclass(frozen=True)
class _Layout:
    """Rows and classes of a shard, and where in the file its two tensors begin."""

    rows: int
    classes: int
    keys: int
    logits: int


def _read_layout(stream: BinaryIO) -> _Layout:
    """Read where things are in a safetensors file, which `safetensors` itself would copy into memory."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    try:
        header = json.loads(stream.read(length if length <= HEADER_LIMIT else 0))
        keys, logits = header["keys"], header["logits"]
        (rows, width), (same_rows, classes) = keys["shape"], logits["shape"]
        (first, first_end), (second, second_end) = keys["data_offsets"], logits["data_offsets"]
        sizes = (rows, width, same_rows, classes, first, first_end, second, second_end)
        fits = (
            all(type(size) is int and size >= 0 for size in sizes)
            and (keys["dtype"], logits["dtype"]) == ("U8", "F32")
            and width == KEY_BYTES
            and rows == same_rows > 0 < classes
            and first_end - first == rows * KEY_BYTES
            and second_end - second == rows * classes * 4
            and 8 + length + max(first_end, second_end) <= size
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise Damaged("it is no shard of keys and logits")
    return _Layout(rows, classes, 8 + length + first, 8 + length + second)


def _is_damaged(file: Path) -> bool:
    """Return whether a shard may be thrown away; one that is gone or unreadable is left alone."""
    try:
        _open_shard(file)
    except Damaged:
        return True
    except OSError:
        return False
    return False
