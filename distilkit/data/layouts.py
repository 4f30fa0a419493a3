"""Layouts of data folders: which files hold which split, as people, the Hub, GLUE and Spark name them."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distilkit.data.formats import ENDINGS, READABLE, is_readable, split_name
from distilkit.errors import UserError, join_first
from distilkit.runs.folder import suggest_sibling

SPLITS = ("train", "validation", "test", "unsupervised")
SPLIT_OF_NAME = {split: split for split in SPLITS} | dict.fromkeys(
    ("dev", "val", "valid", "validate", "eval"), "validation"
)
# A name that begins like a split's and goes on with anything but a letter.
_BEGINS_LIKE_SPLIT = re.compile(
    rf"({'|'.join(sorted((*SPLIT_OF_NAME, 'training', 'testing'), key=len, reverse=True))})(?![a-z])",
    re.IGNORECASE,
)
# What holds data, though it cannot be read here; a README, a log or a script beside the data is no mistake.
_OTHER_DATA = frozenset(
    [
        "txt",
        "text",
        "dat",
        "data",
        "tab",
        "psv",
        "xls",
        "xlsx",
        "ods",
        "xml",
        "zip",
        "gz",
        "bz2",
        "xz",
        "zst",
        "tar",
        "tgz",
        "7z",
        "rar",
        "pkl",
        "pickle",
        "feather",
        "orc",
        "avro",
        "h5",
        "hdf5",
        "db",
        "sqlite",
        "sqlite3",
    ]
)
# As the Hub cuts a split into files: train-00000-of-00002.parquet, once with a hash at the end.
_SHARD = re.compile(r"(?P<name>[a-z]+)-(?P<index>\d{5,})-of-(?P<count>\d{5,})(-[0-9a-f]{8,})?", re.IGNORECASE)
_PART = re.compile(r"part-\d+|\d{4,}\.", re.IGNORECASE)  # as Spark and the Hub's converter name files


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split, in order, and what messages call them."""

    title: str
    files: tuple[Path, ...]


def find_splits(location: Path) -> dict[str, SplitFiles]:
    """Find the files of each split in a folder, or in its folder `data`; a single file is the training split.

    Raises:
        UserError: naming a file that begins like a split and cannot be read, two files for one split, or what
            there is where nothing can be read.
    """
    if location.is_file():
        return _single_file(location)
    if not location.is_dir():
        raise UserError(
            f"--data-dir {location} is not there. {suggest_sibling(location)}".rstrip()
            + f" Give a folder that holds train, validation or test ({READABLE}), or one such file."
        )
    try:
        splits = _splits_in(location)
        if not splits and (location / "data").is_dir():
            splits = _splits_in(location / "data")
        if not splits and (files := _parts_in(location, _PART)):
            splits = {"train": SplitFiles(str(location), files)}
        if not splits:
            raise UserError(_nothing_found(location))
    except OSError as error:
        raise UserError(f"--data-dir {location} cannot be read: {error}.") from None
    return splits


def _single_file(file: Path) -> dict[str, SplitFiles]:
    if not is_readable(file):
        raise UserError(f"--data-dir {file} cannot be read: its ending must be one of {READABLE}.")
    split = SPLIT_OF_NAME.get(split_name(file)[0].lower())
    if split:
        for path in sorted(file.parent.iterdir()):
            neighbour = SPLIT_OF_NAME.get(split_name(path)[0].lower()) if is_readable(path) else None
            if neighbour and neighbour != split:
                raise UserError(
                    f"--data-dir {file} is one file, and {path.name} is beside it. To read both, type "
                    f"--data-dir {file.parent}"
                )
    return {split or "train": SplitFiles(str(file), (file,))}


def _splits_in(folder: Path) -> dict[str, SplitFiles]:
    candidates: dict[str, list[SplitFiles]] = {}
    shards: dict[tuple[str, str, str], dict[int, Path]] = {}
    strays = []
    for path in sorted(folder.iterdir()):
        stem, ending, _ = split_name(path)
        split = SPLIT_OF_NAME.get(stem.lower())
        shard = _SHARD.fullmatch(stem) if ending in ENDINGS else None
        if path.is_dir():
            if split and (files := _parts_in(path)):
                candidates.setdefault(split, []).append(SplitFiles(str(path), files))
            elif _is_stray_folder(path, split):
                strays.append(path)
        elif split and ending in ENDINGS:
            candidates.setdefault(split, []).append(SplitFiles(str(path), (path,)))
        elif shard and shard["name"].lower() in SPLIT_OF_NAME:
            key = (shard["name"], shard["count"], "".join(path.suffixes).lower())
            shards.setdefault(key, {})[int(shard["index"])] = path
        elif _BEGINS_LIKE_SPLIT.match(path.name) and (ending in ENDINGS or _is_other_data(path)):
            strays.append(path)
    for (name, count, suffixes), files_by_index in shards.items():
        _check_complete(folder, name, int(count), files_by_index)
        title = str(folder / f"{name}-*-of-{count}{suffixes}")
        files = tuple(file for _, file in sorted(files_by_index.items()))
        candidates.setdefault(SPLIT_OF_NAME[name.lower()], []).append(
            SplitFiles(title if len(files) > 1 else str(files[0]), files)
        )
    _check_unambiguous(folder, candidates)
    if strays:
        raise UserError(_stray_message(folder, strays[0], candidates))
    return {split: candidates[split][0] for split in SPLITS if split in candidates}


def _check_complete(folder: Path, name: str, count: int, files: dict[int, Path]) -> None:
    missing = [index for index in range(min(count, max(files) + 2)) if index not in files]
    if missing:
        example = next(iter(files.values())).name.replace(f"-{next(iter(files)):05d}-", f"-{missing[0]:05d}-")
        raise UserError(
            f"--data-dir {folder} has {len(files):,} of {count:,} files of {name}: {example} is missing."
        )


def _check_unambiguous(folder: Path, candidates: dict[str, list[SplitFiles]]) -> None:
    for split, several in candidates.items():
        if len(several) > 1:
            first, second = (Path(files.title).name for files in several[:2])
            raise UserError(
                f"--data-dir {folder} has {first} and {second} for the split {split}. Keep one of them."
            )


def _stray_message(folder: Path, path: Path, candidates: dict[str, list[SplitFiles]]) -> str:
    match = _BEGINS_LIKE_SPLIT.match(path.name)
    assert match
    name = match[1].lower()
    split = SPLIT_OF_NAME.get(name, name.removesuffix("ing"))
    if not is_readable(path) and (not path.is_dir() or name == path.name.lower()):
        remedy = f"Convert it to {split}.parquet, .csv, .tsv or .jsonl, or move it out of the folder"
        if path.suffix.lower() in (".zip", ".tar", ".tgz", ".xz", ".7z", ".rar"):
            remedy = "Unpack it, or move it out of the folder"
        return (
            f"--data-dir {folder}: {path.name} begins like the split {split}, but cannot be read. {remedy}."
        )
    remedy = "move it out of the folder"
    if split not in candidates:
        remedy = f"rename it to {split}{''.join(split_name(path)[1:])}, or {remedy}"
    return (
        f"--data-dir {folder}: {path.name} begins like the split {split}, but is not named exactly so. "
        f"{remedy[0].upper()}{remedy[1:]}."
    )


def _is_stray_folder(folder: Path, split: str | None) -> bool:
    """Return whether a folder begins like a split and holds rows, but is not read."""
    if not _BEGINS_LIKE_SPLIT.match(folder.name):
        return False
    paths = list(folder.iterdir())
    if any(path.name == "state.json" or _PART.match(path.name) for path in paths):
        return True
    return split is not None and any(map(_is_other_data, paths))


def _is_other_data(path: Path) -> bool:
    """Return whether the name of a file says that it holds data, of whatever format."""
    ending = path.suffix.lower().removeprefix(".")
    return path.is_file() and (is_readable(path) or ending in _OTHER_DATA or not ending)


def _parts_in(folder: Path, named: re.Pattern[str] = re.compile("")) -> tuple[Path, ...]:
    """Return the files that a folder's rows are cut into, as `save_to_disk`, Spark and the Hub write them."""
    if (folder / "state.json").is_file():
        return _saved_parts(folder)
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] not in "._"]
    parts = [path for path in files if is_readable(path) and named.match(path.name)]
    if len({split_name(path)[1] for path in parts}) > 1:
        raise UserError(
            f"{folder} has {parts[0].name} and {parts[-1].name}: files of more than one format. Keep one."
        )
    return tuple(path for path in parts if path.stat().st_size) or tuple(parts[:1])


def _saved_parts(folder: Path) -> tuple[Path, ...]:
    """Return the files of a dataset that `save_to_disk` wrote; `datasets` keeps its caches beside them."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = tuple(folder / Path(entry["filename"]).name for entry in state["_data_files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{folder / 'state.json'} is damaged: save the dataset again.") from None
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing, which {folder / 'state.json'} names.")
    return files


def _nothing_found(folder: Path) -> str:
    message = f"--data-dir {folder} has no file for train, validation or test ({READABLE})."
    paths = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    if not paths:
        return f"{message} The folder is empty."
    message += f" It holds {_list_paths(paths)}."
    for path in paths:
        if path.is_dir() and any(_looks_like_split(inner) for inner in path.iterdir()):
            return f"{message} Did you mean --data-dir {path}?"
    for path in paths:
        if path.is_file() and is_readable(path):
            return f"{message} To train on {path.name}, type --data-dir {path}"
    return message


def _looks_like_split(path: Path) -> bool:
    stem, ending, _ = split_name(path)
    shard = _SHARD.fullmatch(stem)
    name = shard["name"] if shard else stem
    return name.lower() in SPLIT_OF_NAME and (ending in ENDINGS or path.is_dir())


def _list_paths(paths: Iterable[Path]) -> str:
    names = [path.name + ("/" if path.is_dir() else "") for path in paths]
    return join_first([name if len(name) < 60 else f"{name[:59]}…" for name in names])
