"""Formats of files of rows, recognised by their ending; nothing of them is read."""

import re
from collections.abc import Sequence
from pathlib import Path

from distilkit.errors import join_first

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".arrow")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
COMPRESSIBLE = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt")
READABLE = f"{', '.join(ENDINGS)}; text files also as {', '.join(COMPRESSIONS)}"

SHOWN_LETTERS = 40


def split_name(file: Path) -> tuple[str, str, str]:
    """Split a file's name into stem, ending and compression: `Train.csv.gz` is `Train`, `.csv`, `.gz`.

    The ending and the compression are in lower case; both are empty where they are none that is known.
    """
    stem, ending, compression = file.stem, file.suffix.lower(), ""
    if ending in COMPRESSIONS:
        stem, ending, compression = Path(stem).stem, Path(stem).suffix.lower(), ending
        if ending not in COMPRESSIBLE:
            return file.name, "", ""
    return (stem, ending, compression) if ending in (*ENDINGS, ".txt") else (file.name, "", "")


def is_readable(file: Path) -> bool:
    """Return whether the name of a file is that of a format with columns."""
    return split_name(file)[1] in ENDINGS


def quote_names(names: Sequence[str]) -> str:
    """Return names in quotes, cut, and no more than a few of them: for a message."""
    return join_first([repr(shorten(name)) for name in names])


def is_whole(text: str) -> bool:
    """Return whether a text has no lone surrogate, which also stands for a byte that is not UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def shorten(text: str, letters: int = SHOWN_LETTERS) -> str:
    """Return a text cut to `letters` letters, in one line: for a message."""
    text = re.sub(r"\s+", " ", text) if "\n" in text else text
    return text if len(text) <= letters else text[: letters - 1] + "…"
