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


def is_export(folder: Path) -> bool:
    """Return whether `export` wrote a folder, whatever its version."""
    return str(read_object(folder / MANIFEST).get("schema", "")).startswith("distilkit.export/")


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
        foreign = sorted(entry.name for entry in output_dir.iterdir() if entry.name not in names)
        if foreign:
            raise UserError(
                f"--output-dir {output_dir} holds {foreign[0]}, which --overwrite would delete with it. "
                "Name another folder."
            )

    check_folder(output_dir, "--output-dir", check_contents)
