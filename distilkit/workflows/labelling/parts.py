"""Parts of a job side by side in one folder: whether they belong together, and which are there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distilkit.config.labelling import Part, part_name
from distilkit.errors import UserError, list_names

METADATA = "distilkit.label"  # in a Parquet file: what its rows depend on, as JSON


def describe_job(identity: Mapping[str, Any]) -> dict[str, str]:
    """Return what all parts of a job have in common, for the metadata of their files."""
    return {METADATA: json.dumps({name: identity[name] for name in sorted(identity) if name != "part"})}


def check_parts(folder: Path, part: Part, identity: Mapping[str, Any]) -> None:
    """Refuse a folder with parts of another job.

    Raises:
        UserError: naming the file, and what it differs in.
    """
    expected = json.loads(describe_job(identity)[METADATA])
    own_names = {part_name(Part(i, part.total)) for i in range(1, part.total + 1)}
    for file in sorted(folder.glob("part-*-of-*.parquet")):
        if file.name not in own_names:
            raise UserError(
                f"--output {folder}: it holds {file.name}, which is none of {part.total} parts. Choose "
                "another folder, or remove that file."
            )
        differing = [name for name in expected if _read_job(file).get(name) != expected[name]]
        if differing and file.name != part_name(part):
            raise UserError(
                f"--output {folder}: {file.name} is of another command, which differs in "
                f"{list_names(differing)}. Choose another folder, or remove that file."
            )


def list_missing(folder: Path, part: Part) -> list[int]:
    """Return the parts that are not there yet."""
    return [i for i in range(1, part.total + 1) if not (folder / part_name(Part(i, part.total))).is_file()]


def _read_job(file: Path) -> dict[str, Any]:
    """Return what the rows of a part depend on; empty where the file does not say."""
    try:
        metadata = pq.read_schema(file).metadata or {}
        job: dict[str, Any] = json.loads(metadata.get(METADATA.encode(), b"{}"))
    except (OSError, ValueError, pa.ArrowException):
        return {}
    return job
