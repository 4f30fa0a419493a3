"""Cache keys of teachers; the keys of rows are `Texts.keys`."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from distilkit.data.encoding import Tokenizer
from distilkit.hardware.precision import LogitFormat
from distilkit.models.heads import model_names

# Not part of what the logits depend on: names, versions, and what only saving and loading set.
VOLATILE_CONFIG = {"transformers_version", "architectures", "dtype", "torch_dtype"}


def describe_teacher(
    name: str,
    model: Any,
    tokenizer: Tokenizer,
    model_fingerprint: str,
    max_length: int,
    precision: LogitFormat,
) -> dict[str, object]:
    """Describe all that a teacher's logits depend on, hashed where it is large, with its name and classes.

    Args:
        name: for people; the same teacher may have several.
        model: a transformers model with `config`.
        model_fingerprint: of its weights, as `models.loading.fingerprint`.
        precision: the format that the logits are computed in, which on CUDA may not be what was asked for.
    """
    return {
        "name": name,
        "classes": list(model_names(model)),
        "architecture": type(model).__name__,
        "config": _hash(_without_volatile(model.config.to_dict())),
        "weights": model_fingerprint,
        "tokenizer": _hash(_tokenizer_facts(tokenizer)),
        "max_length": max_length,
        "precision": precision,
    }


def describe_teacher_file(
    name: str, class_names: Sequence[str], fingerprint: str, targets: str, columns: Sequence[str]
) -> dict[str, object]:
    """Describe all that the logits of a teacher's file depend on.

    Args:
        class_names: the data's, in whose order the logits are.
        fingerprint: SHA-256 of the file.
        targets: what it was read as.
        columns: the data's columns of texts, and the file's of targets.
    """
    return {
        "name": name,
        "classes": list(class_names),
        "file": fingerprint,
        "targets": targets,
        "columns": list(columns),
    }


def teacher_key(description: Mapping[str, object]) -> str:
    """Return the SHA-256 of a description, 64 hex digits: the same for a teacher of any name."""
    return _hash({name: value for name, value in description.items() if name not in ("name", "created")})


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return sha256(text.encode()).hexdigest()


def _without_volatile(value: object) -> Any:
    if isinstance(value, list | tuple):
        return [_without_volatile(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        str(name): _without_volatile(item)
        for name, item in value.items()
        if name not in VOLATILE_CONFIG and not str(name).startswith("_")
    }


def _tokenizer_facts(tokenizer: Tokenizer) -> dict[str, object]:
    """Return what decides which ids a text becomes, whatever the tokenizer was last called with."""
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
