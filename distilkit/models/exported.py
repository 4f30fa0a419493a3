"""Models that `export` wrote: ONNX graphs as classifiers that answer like any model and cannot be trained."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from distilkit.errors import UserError
from distilkit.models.classifier import Classifier, load_classifier
from distilkit.runs.exports import LABELS, MANIFEST, SCHEMA, TOKENIZER, is_export
from distilkit.runs.folder import read_object
from distilkit.runs.locating import Source

INSTALL_EXPORT = "pip install 'distilkit[export]'"


class ExportedModel(torch.nn.Module):
    """An ONNX graph behind the interface of a `transformers` classifier.

    It computes on the CPU, in the format that it was exported in, wherever it is sent. Lanes that compute on
    one thread each share a session of one thread.
    """

    def __init__(self, content: bytes, config: SimpleNamespace, name: str) -> None:
        super().__init__()
        self.config, self.name_or_path = config, name
        self.device_marker = torch.nn.Parameter(torch.empty(0), requires_grad=False)
        self._content, self._lock = content, Lock()
        self._sessions: dict[int, Any] = {}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return logits, float32 `[N, C]`, of `input_ids` int64 `[N, L]`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        session = self.open_session(torch.get_num_threads())
        (logits,) = session.run(["logits"], {name: values.numpy() for name, values in inputs.items()})
        return SequenceClassifierOutput(logits=torch.from_numpy(logits))

    def open_session(self, threads: int) -> Any:
        """Return the session of so many threads, made when it is first asked for."""
        from distilkit.models.standalone import open_graph

        with self._lock:
            if threads not in self._sessions:
                self._sessions[threads] = open_graph(self._content, threads)
            return self._sessions[threads]

    def _apply(self, fn: Any, recurse: bool = True) -> "ExportedModel":
        return self  # neither a device nor a number format changes what a graph computes


@dataclass(frozen=True)
class ExportedClassifier(Classifier):
    """A classifier in a folder that `export` wrote.

    Attributes:
        manifest: what the folder says of itself.
        graph: the file that computes.
    """

    manifest: dict[str, Any] = field(kw_only=True)
    graph: str = field(kw_only=True)

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the graph."""
        digest: str = self.manifest["files"][self.graph]["sha256"]
        return digest

    @property
    def bytes(self) -> int:
        """Return the size of the graph."""
        size: int = self.manifest["files"][self.graph]["bytes"]
        return size

    @property
    def parameters(self) -> tuple[int, int]:
        """Return the parameters of the model that was exported, with and without its embedding table."""
        first, second = self.manifest["parameters"]
        return first, second

    @property
    def is_exported(self) -> bool:
        """Return true: it computes in the format that it was exported in."""
        return True


def load_any(source: Source) -> Classifier:
    """Load a classifier to answer texts: a fine-tuned one, or one that `export` wrote.

    Raises:
        UserError: as `load_classifier` and `load_exported`.
    """
    return load_exported(source) if is_export(source.folder) else load_classifier(source)


def load_exported(source: Source, graph: str | None = None) -> ExportedClassifier:
    """Load an exported model, after comparing its files with the hashes in its manifest.

    Args:
        graph: the file that computes; by default the one for this CPU.

    Raises:
        UserError: when a file is missing or changed, or the graph is wrong on this CPU.
    """
    manifest = read_manifest(source)
    try:
        from distilkit.models import standalone
    except ImportError as error:
        raise UserError(
            f"{source.name} is an exported model, which onnxruntime runs ({error}). {INSTALL_EXPORT}"
        ) from None
    folder = source.folder
    try:
        present = [name for name in manifest["graphs"] if (folder / name).exists()]
        graph = graph or standalone.choose_graph(present)
        labels = json.loads(standalone.read_file(folder, manifest, LABELS))
        backend = Backend.from_buffer(standalone.read_file(folder, manifest, TOKENIZER))
        content = standalone.read_file(folder, manifest, graph)
        model = ExportedModel(content, _make_config(manifest, labels), source.name)
        tokenizer = _make_tokenizer(backend, manifest)
        standalone.check_graph(model.open_session(torch.get_num_threads()), manifest, graph)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _explain(source, error) from None
    answering_model: Any = model.eval()
    return ExportedClassifier(
        source.name,
        tokenizer,
        answering_model,
        folder,
        max_length=manifest["max_length"],
        notes=(f"{source.name}: it computes {graph} on the CPU",),
        manifest=manifest,
        graph=graph,
    )


def read_manifest(source: Source) -> dict[str, Any]:
    """Return what an exported folder says of itself. Raises `UserError` where it is of another version."""
    manifest = read_object(source.folder / MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise UserError(
            f"{source.name}: its {MANIFEST} is of {str(manifest.get('schema'))[:40]!r}, and this distilkit "
            f"reads {SCHEMA!r}. Export the model again."
        )
    return manifest


def _explain(source: Source, error: Exception) -> UserError:
    if isinstance(error, OSError):
        missing = Path(error.filename).name if error.filename else str(error)
        reason = f"{missing} cannot be read ({error.strerror})" if error.strerror else str(error)
    elif isinstance(error, KeyError | TypeError):
        reason = f"its {MANIFEST} is damaged ({str(error)[:80]})"
    else:
        reason = str(error)[:300]
    return UserError(f"{source.name}: {reason}. Copy the folder again, or export the model again.")


def _make_config(manifest: dict[str, Any], labels: list[str]) -> SimpleNamespace:
    """Return what distilkit reads of a model's config."""
    return SimpleNamespace(
        model_type=manifest["source"]["architecture"],
        id2label=dict(enumerate(labels)),
        num_labels=len(labels),
        max_position_embeddings=manifest["longest_input"],
        siamese=manifest["takes_pairs"],
    )


def _make_tokenizer(backend: Backend, manifest: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return the tokenizer that the model had; truncation and padding are the caller's."""
    backend.no_truncation()
    backend.no_padding()
    limits = {"model_max_length": manifest["longest_input"]} if manifest["longest_input"] else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=manifest["padding"]["token"],
        model_input_names=manifest["inputs"],
        padding_side="right",
        **limits,
    )
    tokenizer.truncation_side = manifest["truncation"]["side"]
    return tokenizer
