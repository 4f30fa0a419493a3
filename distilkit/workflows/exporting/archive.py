"""`export --format sagemaker`: an exported folder with a handler, as the archive that SageMaker unpacks."""

import gzip
import tarfile
from pathlib import Path
from typing import IO, Any

from distilkit.runs.exports import ARCHIVE, MANIFEST, list_files
from distilkit.runs.folder import write_json
from distilkit.workflows.exporting import sagemaker_handler
from distilkit.workflows.exporting.contents import describe_file

# Versions are open above: its images hold a transformers that takes few versions of tokenizers.
REQUIREMENTS = "numpy>=1.26\nonnxruntime>=1.23\ntokenizers>=0.20\n"
VOLATILE = ("created", "checked")  # facts of an export, which differ from one to the next


def pack_for_sagemaker(folder: Path, target: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write an exported folder and its handler to `target`/model.tar.gz; return the manifest beside it.

    The same model gives the same bytes: what differs between exports is in the manifest beside the archive.
    """
    write_json(folder / MANIFEST, {key: value for key, value in manifest.items() if key not in VOLATILE})
    code = folder / "code"
    code.mkdir()
    (code / "inference.py").write_bytes(Path(sagemaker_handler.__file__).read_bytes())
    (code / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    with (target / ARCHIVE).open("wb") as stream, gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
        write_tar(folder, packed)  # type: ignore[arg-type]
    return manifest | {"format": "sagemaker", "files": {ARCHIVE: describe_file(target / ARCHIVE)}}


def write_tar(folder: Path, stream: IO[bytes]) -> None:
    """Write all files of a folder, in the order of their names, without owners and times."""
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in list_files(folder):
            entry = tarfile.TarInfo(file.relative_to(folder).as_posix())
            entry.size, entry.mode = file.stat().st_size, 0o644
            with file.open("rb") as content:
                archive.addfile(entry, content)
