"""The teacher's logits, computed once and joined to rows by content, never by position."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distilkit.data.encoding import Tokenizer
from distilkit.engine.teacher_logits.store import LogitStore, as_keys
from distilkit.errors import UserError
from distilkit.hardware.precision import Resolved

# Positions of rows -> chunks of (positions int64 [n], logits [n, C]) that cover them, in any order.
Compute = Callable[[Sequence[int]], Iterator[tuple[NDArray[np.int64], Tensor]]]

# Stored and live logits of one row may differ by `absolute + relative * its largest logit`. A row is not
# rounded alike in every batch: which kernels run, and the order in which they sum, depend on the shape. That
# shows in fp32's fifth digit. bf16 and fp16 keep 8 and 11 bits, and twelve layers add up their errors. Other
# weights are off by far more in one row of eight.
TOLERANCES: dict[Resolved, tuple[float, float]] = {
    "fp32": (1e-3, 1e-3),
    "bf16": (0.1, 0.05),
    "fp16": (0.1, 0.05),
}

# Not part of what the logits depend on: names, versions, and what only saving and loading set.
VOLATILE_CONFIG = {"transformers_version", "architectures", "dtype", "torch_dtype"}


def row_key(text: str, pair: str | None = None) -> bytes:
    """16 bytes that stand for the content of a row; ("ab", "c") and ("a", "bc") differ."""
    digest = blake2b(digest_size=16)
    for part in (text, pair):
        if part is not None:
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
    return digest.digest()


def row_keys(texts: Iterable[str], pairs: Iterable[str] | None) -> list[bytes]:
    """`row_key` of every row."""
    if pairs is None:
        return [row_key(text) for text in texts]
    return [row_key(text, pair) for text, pair in zip(texts, pairs, strict=True)]


def describe_teacher(
    name: str,
    model: Any,
    tokenizer: Tokenizer,
    model_fingerprint: str,
    max_length: int,
    precision: Resolved,
) -> dict[str, Any]:
    """All that the teacher's logits depend on, hashed where it is large, and its name and classes.

    Args:
        name: for people; the same teacher may have several.
        model: a transformers model with `config`.
        model_fingerprint: of its weights, as `models.loading.fingerprint`.
    """
    id2label = model.config.id2label
    return {
        "name": name,
        "classes": [str(id2label[index]) for index in range(len(id2label))],
        "architecture": type(model).__name__,
        "config": _hash(_without_volatile(model.config.to_dict())),
        "weights": model_fingerprint,
        "tokenizer": _hash(_tokenizer_facts(tokenizer)),
        "max_length": max_length,
        "precision": precision,
    }


def teacher_key(description: Mapping[str, Any]) -> str:
    """SHA-256 of a `describe_teacher`, as 64 hex digits: one key for one teacher, whatever it is called."""
    return _hash({name: value for name, value in description.items() if name not in ("name", "created")})


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return sha256(text.encode()).hexdigest()


def _without_volatile(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_volatile(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        str(name): _without_volatile(item)
        for name, item in value.items()
        if name not in VOLATILE_CONFIG and not str(name).startswith("_")
    }


def _tokenizer_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What decides which ids a text becomes, whatever the tokenizer was last called with."""
    facts = {
        "class": type(tokenizer).__name__,
        "special_tokens": tokenizer.special_tokens_map,
        "model_max_length": tokenizer.model_max_length,
        "model_input_names": tokenizer.model_input_names,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        pipeline = json.loads(backend.to_str())
        for of_the_last_call in ("truncation", "padding"):
            pipeline.pop(of_the_last_call, None)
        return facts | {"pipeline": pipeline}
    settings = {
        name: str(value)
        for name, value in tokenizer.init_kwargs.items()
        if not name.endswith(("name_or_path", "_file"))
        and not name.startswith(("_", "is_local", "local_files"))
    }
    return facts | {"vocabulary": sorted(tokenizer.get_vocab().items()), "settings": settings}


@dataclass(frozen=True)
class Gathered:
    """The teacher's logits of N rows, float32 `[N, C]` on the CPU, and where they came from.

    `cached`, `computed` and `checked` count distinct rows; `refused` is a sentence when they could not be
    kept, `damaged` counts shards that could not be used.
    """

    logits: Tensor
    cached: int
    computed: int
    checked: int
    refused: str | None
    damaged: int


def gather_teacher_logits(
    keys: list[bytes],
    compute: Compute,
    store: LogitStore,
    *,
    check: int = 8,
    seed: int = 0,
    precision: Resolved,
    waiting: Callable[[], None],
) -> Gathered:
    """The logits of all rows: from `store`, and for distinct rows it lacks from the teacher, and then stored.

    While one process computes, others that need the same teacher wait and share what it stored.

    Args:
        keys: `row_key` of each of the N rows, repeats included.
        compute: runs the teacher; each chunk it yields is stored at once, so that a killed run keeps it.
            Logits are in the teacher's order of classes.
        check: so many random stored rows are computed again and compared, before anything else is computed.
        seed: which ones.
        waiting: called once, if another process is computing.

    Raises:
        UserError: when stored and live logits differ, or live ones are not finite.
        ValueError: when `compute` leaves rows out.
    """
    distinct, first, inverse = np.unique(as_keys(keys), return_index=True, return_inverse=True)
    logits, found = store.find(distinct)
    with ExitStack() as stack:
        if not found.all():
            stack.enter_context(store.lock(waiting))
            store.refresh()  # who held the lock before may have done it all
            logits, found = store.find(distinct)
        stored = np.flatnonzero(found)
        drawn = np.random.default_rng(seed).permutation(stored)[:check]
        for rows, live in _run(compute, first[drawn], inverse, store):
            _compare(logits[rows], live, store, precision)
        missing = np.flatnonzero(~found)
        for rows, live in _run(compute, first[missing], inverse, store):
            store.add(distinct[rows], live)
            logits[rows], found[rows] = live, True
    if not found.all():
        raise ValueError(f"the teacher left out {np.count_nonzero(~found)} of {len(missing)} rows")
    return Gathered(
        logits=torch.from_numpy(logits[inverse]),
        cached=len(stored),
        computed=len(missing),
        checked=len(drawn),
        refused=store.refused,
        damaged=len(store.damaged),
    )


def _run(
    compute: Compute, positions: NDArray[np.int64], inverse: NDArray[np.int64], store: LogitStore
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """What the teacher says of some rows, chunk by chunk: numbers of distinct rows, and logits `[n, C]`."""
    if not len(positions):
        return
    for where, logits in compute(np.sort(positions).tolist()):
        live = logits.detach().float().cpu().numpy()
        if not np.isfinite(live).all():
            raise UserError(
                f"the teacher {store.description['name']} answers with numbers that are not finite. "
                "Use --precision fp32, or another teacher."
            )
        yield inverse[where], live


def _compare(
    stored: NDArray[np.float32], live: NDArray[np.float32], store: LogitStore, precision: Resolved
) -> None:
    absolute, relative = TOLERANCES[precision]
    difference = np.abs(stored - live)
    if (difference > absolute + relative * np.abs(live).max(axis=1, keepdims=True)).any():
        raise UserError(
            f"the teacher {store.description['name']} does not give the logits that are stored for it: "
            f"they differ by up to {difference.max():.3g}. "
            f"Remove them with: distilkit cache prune --key {store.key[:12]}"
        )
