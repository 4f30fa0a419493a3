"""What an exported folder holds beside its graphs: tokenizer, labels, script and manifest."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from distilkit import __version__
from distilkit.config import ExportConfig
from distilkit.data.encoding import count_embeddings, input_names, longest_input, tokenized
from distilkit.data.texts import Texts
from distilkit.errors import UserError
from distilkit.models import standalone
from distilkit.models.classifier import Classifier
from distilkit.runs.environment import now
from distilkit.runs.exports import LABELS, MANIFEST, SCHEMA, SCRIPT, TOKENIZER
from distilkit.runs.folder import write_json

CHECKED_TOKENS = 32  # of the row that a graph answers when it is loaded
# Between CPUs, logits of that row differ by rounding; of int8 graphs, by integers that round differently.
TOLERANCE, INT8_TOLERANCE = 1e-3, 5e-2


def export_tokenizer(classifier: Classifier) -> Backend:
    """Return the tokenizer of a model, which cuts and pads by itself.

    Raises:
        UserError: when it has no form that the `tokenizers` library reads.
    """
    tokenizer = classifier.tokenizer
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise UserError(
            f"{classifier.name}: its tokenizer ({type(tokenizer).__name__}) runs in Python alone and cannot "
            "be exported. Distill the model into a student with another vocabulary: --vocabulary words."
        )
    copied = Backend.from_str(backend.to_str())
    assert classifier.max_length
    copied.enable_truncation(classifier.max_length, direction=tokenizer.truncation_side)
    copied.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=str(tokenizer.pad_token))
    return copied


def check_tokenizer(backend: Backend, classifier: Classifier, texts: Texts) -> None:
    """Raise `UserError` where the exported tokenizer reads a row differently from the model's own."""
    outputs = tokenized(classifier.tokenizer, texts, truncation=True, max_length=classifier.max_length)
    names = input_names(classifier.tokenizer, classifier.model)
    expected_rows = (row for output in outputs for row in zip(*(output[name] for name in names), strict=True))
    for row, (expected, text) in enumerate(zip(expected_rows, texts.rows(), strict=True), start=1):
        encoded = backend.encode(text[0], text[1] if len(text) > 1 else None)
        values = {"input_ids": encoded.ids, "token_type_ids": encoded.type_ids}
        if tuple(values[name] for name in names) != tuple(map(list, expected)):
            raise UserError(
                f"{classifier.name}: its tokenizer ({type(classifier.tokenizer).__name__}) does more than "
                f"its tokenizer.json says: row {row:,} would be read differently. It cannot be exported."
            )


def list_inputs(classifier: Classifier) -> list[str]:
    """Return the inputs of the graph."""
    names = input_names(classifier.tokenizer, classifier.model)
    return ["input_ids", "attention_mask", *(["token_type_ids"] if "token_type_ids" in names else [])]


def make_check(
    graphs: Mapping[str, bytes], inputs: Sequence[str], tokens: int, max_length: int, *, int8: bool
) -> dict[str, Any]:
    """Return a row of ids, spread over the vocabulary, and what each graph answers to it."""
    length = min(CHECKED_TOKENS, max_length, tokens)
    row = {
        "input_ids": np.linspace(0, tokens - 1, length).astype(np.int64),
        "attention_mask": np.ones(length, np.int64),
        "token_type_ids": (np.arange(length) >= length // 2).astype(np.int64),
    }
    row = {name: row[name] for name in inputs}
    batch = {name: values[None] for name, values in row.items()}
    logits: dict[str, NDArray[np.float32]] = {
        name: standalone.open_graph(content, 1).run(["logits"], batch)[0][0]
        for name, content in graphs.items()
    }
    largest = max(1.0, *(float(np.abs(values).max()) for values in logits.values()))
    return {
        "inputs": {name: values.tolist() for name, values in row.items()},
        "logits": {name: values.tolist() for name, values in logits.items()},
        "tolerance": largest * (INT8_TOLERANCE if int8 else TOLERANCE),
    }


def write_contents(
    folder: Path,
    graphs: Mapping[str, bytes],
    classifier: Classifier,
    backend: Backend,
    config: ExportConfig,
    *,
    takes_pairs: bool,
) -> dict[str, Any]:
    """Write all files of an exported folder, the manifest last; return the manifest."""
    assert classifier.max_length
    for name, content in graphs.items():
        (folder / name).write_bytes(content)
    write_json(folder / LABELS, list(classifier.class_names))
    backend.save(str(folder / TOKENIZER))
    (folder / SCRIPT).write_bytes(Path(standalone.__file__).read_bytes())
    tokenizer, inputs = classifier.tokenizer, list_inputs(classifier)
    tokens = min(len(tokenizer), count_embeddings(classifier.model) or len(tokenizer))
    manifest: dict[str, Any] = describe_source(classifier, config) | {
        "format": "onnx",
        "graphs": list(graphs),
        "precision": "int8" if config.int8 else "fp32 with an fp16 table" if config.fp16_table else "fp32",
        "inputs": inputs,
        "takes_pairs": takes_pairs,
        "longest_input": longest_input(tokenizer, classifier.model),
        "truncation": {"side": tokenizer.truncation_side, "strategy": "longest_first"},
        "padding": {"side": "right", "token": str(tokenizer.pad_token), "id": tokenizer.pad_token_id},
        "check": make_check(graphs, inputs, tokens, classifier.max_length, int8=config.int8),
        "files": {name: describe_file(folder / name) for name in (*graphs, TOKENIZER, LABELS, SCRIPT)},
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def describe_source(classifier: Classifier, config: ExportConfig) -> dict[str, Any]:
    """Return what the manifest of every format begins with: what was exported, when, and how."""
    return {
        "schema": SCHEMA,
        "format": config.format,
        "distilkit": __version__,
        "created": now(),
        "source": {
            "model": config.model,
            "architecture": classifier.model.config.model_type,
            "fingerprint": classifier.fingerprint,
        },
        "parameters": list(classifier.parameters),
        "max_length": classifier.max_length,
    }


def describe_file(file: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file, as manifests hold them."""
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
