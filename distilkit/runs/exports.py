"""Folders that `export` writes: the names of their files, and which of them may be replaced."""

from pathlib import Path

from distilkit.errors import UserError
from distilkit.runs.folder import check_folder, read_object

SCHEMA = "distilkit.export/1"
GRAPH, MANIFEST, TOKENIZER, LABELS, SCRIPT = (
    "model.onnx",
    "manifest.json",
    "tokenizer.json",
    "labels.json",
    "predict.py",
)
ARCHIVE = "model.tar.gz"

# What a folder for another program is, and how distilkit reads what it holds.
PACKED = {
    "sagemaker": f"an export for SageMaker. Unpack its {ARCHIVE} (tar xzf), and name that folder",
    "mlflow": "a model for MLflow. Name the folder artifacts/model in it",
    "web": "a page for a browser. Export the model with --format onnx too, and name that folder",
}


def read_format(folder: Path) -> str | None:
    """Return the `--format` that `export` wrote a folder in, whatever its version; else nothing."""
    manifest = read_object(folder / MANIFEST)
    is_of_export = str(manifest.get("schema", "")).startswith("distilkit.export/")
    return str(manifest.get("format", "onnx")) if is_of_export else None


def is_export(folder: Path) -> bool:
    """Return whether a folder holds graphs that `export` wrote, for onnxruntime."""
    return read_format(folder) == "onnx"


def read_max_length(folder: Path) -> int | None:
    """Return how many tokens a model reads that `export` wrote, where `folder` is such a one."""
    max_length = read_object(folder / MANIFEST).get("max_length") if read_format(folder) else None
    return max_length if isinstance(max_length, int) else None


def check_export_dir(output_dir: Path, overwrite: bool) -> None:
    """Refuse, before any work, a folder that cannot receive an exported model.

    Raises:
        UserError: when it holds anything but one that `overwrite` may replace, or cannot be made.
    """

    def check_contents() -> None:
        if not overwrite:
            raise UserError(
                f"--output-dir {output_dir} is not empty. Name another folder, or replace an exported model "
                "with --overwrite."
            )
        manifest = read_object(output_dir / MANIFEST)
        names = {MANIFEST, *manifest.get("files", {})} if manifest.get("schema") == SCHEMA else set()
        files = {file.relative_to(output_dir).as_posix() for file in list_files(output_dir)}
        if foreign := sorted(files - names):
            raise UserError(
                f"--output-dir {output_dir} holds {foreign[0]}, which --overwrite would delete with it. "
                "Name another folder."
            )

    check_folder(output_dir, "--output-dir", check_contents)


def list_files(folder: Path) -> list[Path]:
    """Return all files below a folder, by name; a link is a file, whatever it points at."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
