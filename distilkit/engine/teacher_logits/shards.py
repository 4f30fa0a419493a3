"""Shards, the cache's file format: keys and logits in a safetensors file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

KEY_BYTES = 16

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
class Shard:
    """Row keys, ascending, and the teacher's logits `[N, C]` of those rows."""

    keys: Keys
    logits: NDArray[np.float32]


# Files ------------------------------------------------------------------------------------------------------


def open_shard(file: Path, classes: int | None = None) -> Shard:
    """Read a shard once its checksum is verified.

    Raises:
        Damaged: when it is not what was written.
        OSError: when it cannot be read.
    """
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != file.stem:
        raise Damaged("its bytes do not match its checksum")
    try:
        tensors = safetensors.numpy.load(data)
        shard = Shard(as_keys(tensors["keys"]), tensors["logits"])
    except (SafetensorError, KeyError, ValueError):
        raise Damaged("it is no shard of keys and logits") from None
    if shard.logits.dtype != np.float32 or shard.logits.ndim != 2 or len(shard.logits) != len(shard.keys):
        raise Damaged("it is no shard of keys and logits")
    if not (shard.keys[1:] > shard.keys[:-1]).all():
        raise Damaged("its keys do not ascend")
    if not np.isfinite(shard.logits).all():
        raise Damaged("it has logits that are not finite")
    if classes not in (None, shard.logits.shape[1]):
        raise Damaged(f"it has {shard.logits.shape[1]} classes, not {classes}")
    return shard


def serialise(shard: Shard) -> tuple[str, bytes]:
    """Return the name of a shard's file, which is the checksum of its bytes, and the bytes.

    The tensors are `keys`, uint8 `[N, 16]`, and `logits`, float32 `[N, C]`.
    """
    keys = shard.keys.view(np.uint8).reshape(-1, KEY_BYTES)
    data = safetensors.numpy.save({"keys": keys, "logits": shard.logits})
    return f"{hashlib.sha256(data).hexdigest()}.safetensors", data


def count_rows(file: Path) -> int:
    """Return the rows that the header of a shard promises; 0 when it cannot be read."""
    try:
        with safe_open(file, framework="numpy") as shard:
            return int(shard.get_slice("keys").get_shape()[0])
    except (OSError, SafetensorError):
        return 0


def is_damaged(file: Path) -> bool:
    """Return whether a shard may be thrown away; one that is gone or unreadable is left alone."""
    try:
        open_shard(file)
    except Damaged:
        return True
    except OSError:
        return False
    return False
