"""`export --format mlflow`: an exported folder as a pyfunc model of MLflow."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas

from distilkit.errors import UserError
from distilkit.runs.exports import LABELS, MANIFEST, list_files
from distilkit.runs.folder import write_json
from distilkit.workflows.exporting.contents import describe_file

INSTALL_MLFLOW = "pip install 'distilkit[mlflow]'"
SCRIPT = Path(__file__).with_name("pyfunc_model.py")
REQUIREMENTS = ("numpy", "onnxruntime", "pandas", "tokenizers")  # and mlflow, which it adds by itself
TEXT = "text"
EXAMPLE = {TEXT: "a text to classify", "text_pair": "another to compare it with"}  # no row of anyone's data


def import_mlflow() -> Any:
    """Import mlflow, which then reports no use of it to its makers.

    Raises:
        UserError: when it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        import mlflow.pyfunc
    except ImportError as error:
        raise UserError(f"--format mlflow needs mlflow ({error}). {INSTALL_MLFLOW}") from None
    return mlflow


def write_mlflow_model(folder: Path, target: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write an exported folder as a pyfunc model into `target`; return the manifest beside it.

    Args:
        folder: is copied into the model, with the manifest that it receives.
    """
    mlflow = import_mlflow()
    write_json(folder / MANIFEST, manifest)
    labels = json.loads((folder / LABELS).read_bytes())
    texts = {name: EXAMPLE[name] for name in EXAMPLE if name == TEXT or manifest["takes_pairs"]}
    with _hushing(), TemporaryDirectory(dir=target) as draft:
        saved = Path(draft, "saved")
        mlflow.pyfunc.save_model(
            saved,
            python_model=str(SCRIPT),
            artifacts={"model": str(folder)},
            signature=_make_signature(mlflow, list(texts), labels),
            input_example=pandas.DataFrame([texts]),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
        _remove_local_paths(mlflow, saved / "MLmodel")
        for entry in saved.iterdir():
            entry.rename(target / entry.name)
    files = {
        name: describe_file(target / name)
        for file in list_files(target)
        if not (name := file.relative_to(target).as_posix()).startswith(f"{folder.parent.name}/")
    }
    return manifest | {"format": "mlflow", "files": files}


@contextmanager
def _hushing() -> Iterator[None]:
    """Silence what mlflow logs of its own calls, and warns of them."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _remove_local_paths(mlflow: Any, file: Path) -> None:
    """Name script and artifacts in an MLmodel file as they lie in the folder, not on this disk."""
    model = mlflow.models.Model.load(str(file))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = SCRIPT.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(file))


def _make_signature(mlflow: Any, columns: Sequence[str], labels: Sequence[str]) -> Any:
    """Return which columns the model reads and which it answers with, as MLflow checks them."""
    column_type, schema = mlflow.types.ColSpec, mlflow.types.Schema
    scores = ["score", *(f"score_{label}" for label in labels)]
    return mlflow.models.ModelSignature(
        inputs=schema([column_type("string", name) for name in columns]),
        outputs=schema([column_type("string", "label"), *(column_type("double", name) for name in scores)]),
    )
