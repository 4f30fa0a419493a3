"""`export`: a model as a folder that predicts without torch, checked on real rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from distilkit.config import ExportConfig
from distilkit.config.fields import replace_values
from distilkit.data import sources
from distilkit.data.encoding import pads_left
from distilkit.data.labels import list_pairs, match_labels
from distilkit.data.text_data import TextData
from distilkit.engine.inference.padding import check_batching
from distilkit.errors import GateMissed, UserError
from distilkit.hardware.device import select_device
from distilkit.hardware.threads import using_threads
from distilkit.models.classifier import Classifier, load_classifier, with_max_length
from distilkit.models.exported import INSTALL_EXPORT, load_exported
from distilkit.progress import SILENT, Reporter
from distilkit.runs.environment import cpu_name
from distilkit.runs.exports import MANIFEST, check_export_dir, is_export
from distilkit.runs.folder import write_json, writing_folder
from distilkit.runs.locating import Source, find_model
from distilkit.workflows.exporting.archive import pack_for_sagemaker
from distilkit.workflows.exporting.contents import check_tokenizer, export_tokenizer, write_contents
from distilkit.workflows.exporting.graphs import build_graphs, check_size
from distilkit.workflows.exporting.half_precision import WEIGHTS, write_half_model
from distilkit.workflows.exporting.measurement import (
    TORCH,
    Measurement,
    Reference,
    compute_logits,
    list_faults,
    measure,
)
from distilkit.workflows.exporting.pyfunc_folder import import_mlflow, write_mlflow_model
from distilkit.workflows.exporting.web_folder import write_web_folder
from distilkit.workflows.exporting.web_tokenizer import check_readable

# Which rows a run was trained on.
DATA_OPTIONS = ("dataset", "data_dir", "text_column", "text_pair_column", "label_column")
STAGED = ("sagemaker", "mlflow", "web")  # formats that hold the folder for onnxruntime in another form
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Export:
    """The folder that `export` wrote, and what its manifest says of it."""

    path: Path
    manifest: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document: the manifest, and where it lies."""
        return {"path": str(self.path), **self.manifest}


def export(config: ExportConfig, reporter: Reporter = SILENT) -> Export:
    """Write the model of `config` as a folder that predicts without torch.

    Graphs are compared with the model in torch on real rows: those of `config`, else the run's own.

    Raises:
        UserError: when options, model or data do not fit, or the model cannot be exported.
        GateMissed: when a graph loses more accuracy than `max_drop`; nothing is written then.
    """
    check_export_dir(config.output_dir, config.overwrite)
    _check_installed(config)
    select_device("cpu", reporter)
    source = find_model(config.model)
    if is_export(source.folder):
        raise UserError(f"{config.model} is an exported model already. Name the model that it was made from.")
    config = _choose_data(config, source)
    classifier = with_max_length(
        load_classifier(source), config.max_length, 256 if config.dataset == "imdb" else 128
    )
    if config.format != "safetensors":
        check_size(classifier)
    classifier.model.float()
    data = sources.load_for_evaluation(config, config.split, [classifier.class_names])
    reporter.note_all((*data.notes, *classifier.notes))
    with using_threads(config.threads) as threads:
        reference = _make_reference(classifier, data, config, reporter)
        check = partial(check_export_dir, config.output_dir, config.overwrite)
        with (
            writing_folder(config.output_dir, "--output-dir", "exported model", check) as draft,
            TemporaryDirectory(dir=draft) as staging,
        ):
            folder = Path(staging, "model") if config.format in STAGED else draft
            folder.mkdir(exist_ok=True)
            if config.format == "safetensors":
                manifest = write_half_model(folder, classifier, config)
                loaded = load_classifier(Source(config.model, folder))
                models = {WEIGHTS: with_max_length(loaded, classifier.max_length)}
            else:
                manifest = _write_graphs(folder, classifier, data, reference, config, reporter)
                models = {name: load_exported(Source(name, folder), name) for name in manifest["graphs"]}
            measurements = _measure_all(classifier, models, reference, config, reporter)
            manifest["checked"] = {
                "dataset": data.name,
                "split": config.split,
                "rows": len(reference.texts),
                "cpu": cpu_name(),
                "threads": threads,
                "models": [measurement.document() for measurement in measurements],
            }
            if config.format == "sagemaker":
                manifest = pack_for_sagemaker(folder, draft, manifest)
            elif config.format == "mlflow":
                manifest = write_mlflow_model(folder, draft, manifest)
            elif config.format == "web":
                manifest = write_web_folder(folder, draft, manifest, reference.texts, reporter)
            write_json(draft / MANIFEST, manifest)
    return Export(config.output_dir, manifest)


def _check_installed(config: ExportConfig) -> None:
    if config.format == "mlflow":
        import_mlflow()
    if config.format != "safetensors":
        check_onnx("export")


def check_onnx(command: str) -> None:
    """Raise `UserError` where what writes and runs graphs is not installed."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{command} needs onnx and onnxruntime ({error}). {INSTALL_EXPORT}") from None
    assert onnx


def _choose_data(config: ExportConfig, source: Source) -> ExportConfig:
    """Return the config with the data of the run, where none is named."""
    if config.has_dataset:
        return config
    if source.run is None or not source.run.config.has_dataset:
        raise UserError(
            f"{config.model}: an export is checked on real rows, and no data is named. Give --dataset NAME "
            "or --data-dir DIR."
        )
    run_config = source.run.config
    if run_config.data_dir and not run_config.data_dir.exists():
        raise UserError(
            f"{config.model}: the data that it was trained on, {run_config.data_dir}, is not there to check "
            "an export on. Give --data-dir DIR."
        )
    return replace_values(config, **{name: getattr(run_config, name) for name in DATA_OPTIONS})


def _make_reference(
    classifier: Classifier, data: TextData, config: ExportConfig, reporter: Reporter
) -> Reference:
    """Answer the rows in torch."""
    assert classifier.max_length
    texts = data.texts(config.split)
    class_order, by_name = match_labels(classifier.class_names, data.names, classifier.name)
    if not by_name:
        reporter.warn(
            f"{classifier.name}: it shares no class names with the data; class ids are assumed to match: "
            f"{list_pairs(classifier.class_names, data.names)}"
        )
    padding_note = check_batching(
        classifier.model,
        classifier.tokenizer,
        texts,
        max_length=classifier.max_length,
        precision="fp32",
        device=CPU,
        name=classifier.name,
    )
    logits = compute_logits(classifier, texts, len(texts))
    return Reference(texts, data.labels_of[config.split], class_order, logits, padding_note is not None)


def _write_graphs(
    folder: Path,
    classifier: Classifier,
    data: TextData,
    reference: Reference,
    config: ExportConfig,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write a folder that predicts with onnxruntime; return its manifest, which lacks what is checked.

    Raises:
        UserError: when the model needs rows of one length, or padding on the left, which no script arranges,
            or otherwise cannot be exported.
    """
    if reference.depends_on_padding or pads_left(classifier.tokenizer, classifier.model):
        raise UserError(
            f"{classifier.name}: a {type(classifier.model).__name__} needs rows of one length, or padding on "
            "the left, and cannot be exported as a graph. Distill it into another student, --student bilstm, "
            "or export its weights: --format safetensors."
        )
    backend = export_tokenizer(classifier)
    if config.format == "web":
        check_readable(backend, classifier.name)
    check_tokenizer(backend, classifier, reference.texts)
    is_siamese = bool(getattr(classifier.model.config, "siamese", False))
    return write_contents(
        folder,
        build_graphs(classifier, config, reporter),
        classifier,
        backend,
        config,
        takes_pairs=is_siamese or data.pair_column is not None,
    )


def _measure_all(
    classifier: Classifier,
    exported_models: Mapping[str, Classifier],
    reference: Reference,
    config: ExportConfig,
    reporter: Reporter,
) -> list[Measurement]:
    """Measure the model in torch, then each exported one as it was loaded from the folder, by file.

    Raises:
        GateMissed: when one of them must not be used.
    """
    models = {TORCH: classifier, **exported_models}
    rows = len(reference.texts)
    measurements = [
        measure(
            name,
            model,
            reference,
            latency=config.latency,
            advance=lambda done, name=name: reporter.advance(name, done, rows),  # type: ignore[misc]
        )
        for name, model in models.items()
    ]
    is_exact = not (config.int8 or config.fp16_table or config.format == "safetensors")
    faults = list_faults(measurements[0], measurements[1:], config.max_drop, is_exact=is_exact)
    if faults:
        raise GateMissed("; ".join(faults) + ". Nothing was written.")
    return measurements
