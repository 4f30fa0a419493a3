"""`augment`: new texts of the training split's, as one Parquet file.

The split is worked on in blocks of rows. Finished ones lie in `<output>.parts` until the file is complete, so
that the same command goes on where it was stopped.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from distilkit import __version__
from distilkit.config import AugmentConfig, Precision, resolve
from distilkit.data import sources as datasets
from distilkit.data.sources import TextData
from distilkit.errors import UserError
from distilkit.hardware.precision import default_device, resolve_precision
from distilkit.models.loading import (
    find_model,
    fingerprint,
    load_embedding_table,
    load_masked_lm,
    load_tokenizer,
)
from distilkit.progress import SILENT, Reporter
from distilkit.runs import run
from distilkit.workflows.augmentation.masked_lm import MaskedLM, is_word
from distilkit.workflows.augmentation.rules import (
    REPEATED,
    UNCHANGED,
    Candidates,
    Ints,
    Known,
    Variants,
    Words,
    in_turn,
    key,
    named,
    tag_words,
    tang_variants,
    tinybert_variants,
)
from distilkit.workflows.augmentation.word_vectors import WordVectors, of_model, read_word_vectors

SCHEMA = "distilkit.augmentation/1"
BLOCK = 1 << 14  # words of training rows that are worked on, and kept, together
SOURCE, RULE, SEED = "source", "rule", "seed"
METADATA, DROPPED = b"distilkit", b"dropped"
IDENTITY, LOCK = "made-of.json", ".lock"


class Busy(UserError):
    """Another process is writing the output."""


class AlreadyThere(UserError):
    """The output is there, and it was not said that it may be replaced."""


# Numbers of texts and a seed of each -> as many new texts of each, one after the other.
Make = Callable[[Ints, Sequence[Sequence[int]]], Variants]


@dataclass(frozen=True)
class Augmentation:
    """What `augment` wrote. `rules` counts its rows, `dropped` those that were not new, by where they were.

    `rows_per_second` counts rows of the blocks that this command made; `None` where all were there already.
    """

    path: Path
    dataset: str
    seed: int
    sources: int
    rows: int
    rules: dict[str, int]
    dropped: dict[str, int]
    seconds: float
    rows_per_second: float | None

    def document(self) -> dict[str, Any]:
        """The versioned JSON document."""
        return {"schema": SCHEMA} | vars(self) | {"path": str(self.path)}


def augment(config: AugmentConfig, reporter: Reporter = SILENT) -> Augmentation:
    """Write new texts to `config.output`: the dataset's text columns, `source`, `rule` and `seed`.

    `source` is the row of the training file, from 0. No new row equals another, or one of the training,
    validation or test split; case, white space and the order of a pair make no difference. The same config
    and data give the same file, also where the work was stopped in between.

    Raises:
        UserError: on anything wrong with the options, the data, a model or the output.
    """
    started = time.perf_counter()
    config = resolve(config)
    _check_output(config)
    _check_free(config)
    loaded = datasets.load_for_augmentation(config, config.max_train_samples)
    reporter.note_all(loaded.data.notes)
    sides = [[texts[row] for row in loaded.rows.tolist()] for texts in _columns(loaded.data, "train")]
    make, made_with = (_tang if config.rule == "tang" else _tinybert)(config, sides, reporter)
    maker = _Maker(config, loaded.data, loaded.rows, sides, make)
    identity = _identity(config, loaded.data, made_with)
    tally = _Tally()
    with _parts(config, identity, reporter) as folder:
        files = []
        for number, block in enumerate(_blocks(sides)):
            files.append(folder / f"{number:06}.parquet")
            if (part := _finished(files[-1])) is None:
                begun = time.perf_counter()
                part = maker.make(block)
                run.write_whole(files[-1], _as_parquet(part))
                tally.add_made(len(part), time.perf_counter() - begun)
            else:
                maker.remember(part)
            tally.add(part)
            reporter.advance("rows augmented", int(block[-1]) + 1, len(loaded.rows))
        _join(files, config.output, maker.schema.with_metadata({METADATA: identity}))
    return Augmentation(
        path=config.output,
        dataset=config.data_name,
        seed=config.seed,
        sources=len(loaded.rows),
        rows=sum(tally.rules.values()),
        rules=dict(sorted(tally.rules.items())),
        dropped=dict(sorted(tally.dropped.items())),
        seconds=round(time.perf_counter() - started, 3),
        rows_per_second=tally.rows_per_second,
    )


def name_of(config: AugmentConfig) -> str:
    """A name for the file that `config` makes, of all that its rows depend on but the tagger's version.

    Raises:
        UserError: as `augment`, where the data cannot be read.
    """
    config = resolve(config)
    data = datasets.load_for_augmentation(config, config.max_train_samples).data
    digest = sha256(_identity(config, data, {}).encode()).hexdigest()
    return f"{config.data_name}-augmented-{digest[:8]}.parquet"


def _columns(data: TextData, split: str) -> list[list[str]]:
    """The texts of a split, and where there are pairs the second texts."""
    columns: list[Any] = [column for column in (data.texts(split), data.pairs(split)) if column is not None]
    return [column[:] for column in columns]


def _blocks(sides: list[list[str]]) -> list[Ints]:
    """The numbers of the rows, in parts of about `BLOCK` words."""
    words = np.array([sum(len(text.split()) for text in row) for row in zip(*sides, strict=True)])
    return np.split(np.arange(len(words)), np.flatnonzero(np.diff(np.cumsum(words) // BLOCK)) + 1)


def _tang(config: AugmentConfig, sides: list[list[str]], reporter: Reporter) -> tuple[Make, dict[str, Any]]:
    """The rule of Tang et al. for these texts, and what it depends on beside the config."""
    words = Words.of(chain(*sides), mask := str(config.mask_token))
    masked = words.vocabulary.index(mask)
    tags = tag_words(words, lambda done: reporter.advance("texts tagged", done, len(words)))

    def make(texts: Ints, seeds: Sequence[Sequence[int]]) -> Variants:
        return tang_variants(
            words,
            tags,
            texts,
            seeds,
            variants=config.variants or 0,
            p_mask=config.p_mask or 0,
            p_pos=config.p_pos or 0,
            p_ngram=config.p_ngram or 0,
            max_ngram=config.max_ngram or 1,
            mask=masked,
        )

    return make, {"tagger": f"textblob {version('textblob')}"}


def _tinybert(
    config: AugmentConfig, sides: list[list[str]], reporter: Reporter
) -> tuple[Make, dict[str, Any]]:
    """TinyBERT's rule for these texts, and what it depends on beside the config."""
    words, top_k = Words.of(chain(*sides)), config.top_k or 0
    vocabulary, made_with = list(words.vocabulary), dict[str, Any]()
    lm, first_piece, near = None, len(vocabulary), np.ones(len(vocabulary), bool)
    if config.mlm:
        lm, made_with = _load_mlm(config.mlm, words, config.precision or "auto")
        near = ~lm.is_single
        vocabulary += lm.words
    neighbours, counts = (
        np.zeros((len(words.vocabulary), top_k), np.int64),
        np.zeros(len(words.vocabulary), np.int64),
    )
    if config.embeddings:
        vectors, made_with["vectors"] = _load_vectors(config.embeddings)
        asked = np.flatnonzero(near & np.array([is_word(word) for word in words.vocabulary]))
        found, counts[asked] = vectors.neighbours(
            [words.vocabulary[number] for number in asked],
            top_k,
            lambda done: reporter.advance("neighbours", done, len(asked)),
        )
        neighbours[asked, : found.shape[1]] = found + len(vocabulary)
        vocabulary += vectors.words
    everything = replace(words, vocabulary=tuple(vocabulary))

    def make(texts: Ints, seeds: Sequence[Sequence[int]]) -> Variants:
        block = everything.take(texts)
        found = Candidates(neighbours[block.ids], counts[block.ids], near[block.ids])
        if lm:
            places, proposed = lm.candidates(block, top_k)
            found.ids[places, : proposed.shape[1]] = proposed + first_piece
            found.counts[places] = proposed.shape[1]
        return tinybert_variants(
            block, found, seeds, variants=config.variants or 0, p_replace=config.p_replace or 0
        )

    return make, made_with


def _load_mlm(name: str, words: Words, precision: Precision) -> tuple[MaskedLM, dict[str, Any]]:
    device = default_device()
    resolved = resolve_precision(precision, device)
    try:
        source = find_model(name)
    except UserError as error:
        raise UserError(
            f"--mlm: {error} Or do without one: --candidates embeddings --embeddings FILE_OR_MODEL"
        ) from None
    model: Any = load_masked_lm(source)
    tokenizer = load_tokenizer(source)
    made_with = {"masked language model": fingerprint(model), "precision used": resolved}
    return MaskedLM(name, model.to(device), tokenizer, words.vocabulary, resolved), made_with


def _load_vectors(name: str) -> tuple[WordVectors, str]:
    """The word vectors of a text file or a model, and their fingerprint."""
    if Path(name).is_file():
        vectors = read_word_vectors(Path(name))
    else:
        source = find_model(name)
        vectors = of_model(load_tokenizer(source), load_embedding_table(source))
    digest = sha256("\n".join(vectors.words).encode("utf-8", "surrogatepass"))
    digest.update(vectors.vectors.numpy().tobytes())
    return replace(vectors, vectors=vectors.vectors.to(default_device())), digest.hexdigest()


class _Maker:
    """Makes the rows of one block after the other, and knows all rows that there are already."""

    def __init__(
        self, config: AugmentConfig, data: TextData, rows: Ints, sides: list[list[str]], make: Make
    ) -> None:
        self.rows, self.sides, self.seed, self._make = rows, sides, config.seed, make
        self.variants = config.variants or 0
        turns = list(in_turn(self.variants))
        self.varies = (
            [list(turn) for turn in zip(*turns, strict=True)] if len(sides) == 2 else [[True] * self.variants]
        )
        self.columns = [column for column in (data.text_column, data.pair_column) if column]
        if taken := [column for column in self.columns if column in (SOURCE, RULE, SEED)]:
            raise UserError(f"the column {taken[0]!r} of the texts has the name of one of ours. Rename it.")
        self.schema = pa.schema(
            [(column, pa.string()) for column in self.columns]
            + [(SOURCE, pa.int64()), (RULE, pa.string()), (SEED, pa.int64())]
        )
        self.known = Known()
        for split in ("validation", "test", "train"):
            if split in data.splits:
                self.known.add(split, map(key, *_columns(data, split)))

    def remember(self, part: pa.Table) -> None:
        """Rows that an earlier command made are known from now on."""
        self.known.add(REPEATED, map(key, *(part[column].to_pylist() for column in self.columns)))

    def make(self, block: Ints) -> pa.Table:
        """The new rows of a block of training rows; what was dropped is in the metadata of the schema."""
        old = [[side[text] for text in block.tolist()] for side in self.sides]
        new, shown = [], np.zeros((len(block), self.variants), np.int64)
        for side, texts in enumerate(old):
            seeds = [(self.seed, row, side) for row in self.rows[block].tolist()]
            made = self._make(block + side * len(self.rows), seeds)
            varies = self.varies[side] * len(block)
            fixed = (text for text in texts for _ in range(self.variants))
            new.append([t if v else f for t, v, f in zip(made.words.texts(), varies, fixed, strict=True)])
            shown |= made.shown.reshape(shown.shape) * np.array(self.varies[side])
        kept, dropped = self._sift(list(zip(*new, strict=True)), shown.ravel().tolist(), list(map(key, *old)))
        names = np.array(named(made.rules), object)
        columns = [
            *([texts[number] for number in kept] for texts in new),
            np.repeat(self.rows[block], self.variants)[kept],
            names[shown.ravel()[kept]],
            np.full(len(kept), self.seed),
        ]
        metadata = {DROPPED: json.dumps(dropped, sort_keys=True)}
        return pa.table(columns, schema=self.schema.with_metadata(metadata))

    def _sift(
        self, new: list[tuple[str, ...]], shown: list[int], old: list[bytes]
    ) -> tuple[list[int], Counter[str]]:
        """The numbers of the rows to keep, and how many of the others are where already."""
        kept, dropped = [], Counter[str]()
        for number, row in enumerate(new):
            if not shown[number]:
                dropped[UNCHANGED] += 1
            elif home := self.known.refuse(key(*row), old[number // self.variants]):
                dropped[home] += 1
            else:
                kept.append(number)
        return kept, dropped


@dataclass
class _Tally:
    """Counts of the parts so far."""

    rules: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    made: int = 0
    seconds: float = 0.0

    def add(self, part: pa.Table) -> None:
        self.rules.update(part[RULE].to_pylist())
        self.dropped.update(json.loads(part.schema.metadata[DROPPED]))

    def add_made(self, rows: int, seconds: float) -> None:
        self.made, self.seconds = self.made + rows, self.seconds + seconds

    @property
    def rows_per_second(self) -> float | None:
        return round(self.made / self.seconds, 1) if self.seconds else None


# What lies on the disk ------------------------------------------------------------------------------------


def _check_output(config: AugmentConfig) -> None:
    """Refuse early, before any work, an output that could not be written."""
    output = config.output
    try:
        if output.is_dir():
            raise UserError(f"--output {output} is a folder. Name a file in it.")
        if output.exists() and not config.overwrite:
            raise AlreadyThere(
                f"--output {output} is there already. Name another, or replace it with --overwrite."
            )
        home = next(parent for parent in output.absolute().parents if parent.exists())
        if not home.is_dir() or not os.access(home, os.W_OK):
            raise UserError(f"--output {output}: {home} is not a folder you can write to.")
    except OSError as error:
        raise UserError(f"--output {output} cannot be used: {error.strerror}.") from None


def _check_free(config: AugmentConfig) -> None:
    """Refuse early an output that another process is writing; one that begins meanwhile is found later."""
    lock = _parts_of(config) / LOCK
    try:
        if lock.exists():
            with FileLock(lock, timeout=0):
                pass
    except Timeout:
        raise _busy(config) from None
    except OSError:
        pass  # `_parts` says what is wrong with the folder, if it is there by then


def _parts_of(config: AugmentConfig) -> Path:
    return config.output.with_name(config.output.name + ".parts")


def _busy(config: AugmentConfig) -> Busy:
    return Busy(f"--output {config.output}: another process is writing it. Wait for it.")


def _identity(config: AugmentConfig, data: TextData, made_with: dict[str, Any]) -> str:
    """All that the rows depend on, as JSON: the config, the texts, and tagger or models."""
    values = TypeAdapter(AugmentConfig).dump_python(config, mode="json")
    for name in ("output", "overwrite"):
        del values[name]
    texts = {split: data.fingerprint(split, labels=False) for split in data.splits}
    identity = {"distilkit": __version__, "config": values, "texts": texts, **made_with}
    return json.dumps(identity, indent=1, ensure_ascii=False)


@contextmanager
def _parts(config: AugmentConfig, identity: str, reporter: Reporter) -> Iterator[Path]:
    """The folder of finished blocks, for this command alone; removed when the block ends well."""
    folder = _parts_of(config)
    try:
        if _holds_something(folder) and not (folder / IDENTITY).is_file():
            raise UserError(
                f"{folder} is in the way: it holds no finished blocks. Rename it, or name another --output."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(
            folder / LOCK, timeout=0
        ):  # the folder goes while it is held: nobody else has begun there
            try:
                _check_output(config)  # another process may have written it since
                known = _known_blocks(folder, identity, config.overwrite)
            except UserError:
                if not _holds_something(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            try:
                if not known:
                    for file in folder.glob("*.parquet"):
                        file.unlink()
                    run.write_text(folder / IDENTITY, identity)
                yield folder
            except BaseException:
                if any(folder.glob("*.parquet")):
                    reporter.note(
                        f"finished blocks are kept in {folder}; the same command goes on from there"
                    )
                else:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise _busy(config) from None
    except OSError as error:
        if error.errno not in run.REFUSALS:
            raise
        raise UserError(f"--output {config.output}: {error.strerror}.") from None


def _holds_something(folder: Path) -> bool:
    """Anything but a lock, which comes first, and what was not written to its end."""
    try:
        names = [file.name for file in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(name != LOCK and not name.endswith(run.UNFINISHED) for name in names)


def _known_blocks(folder: Path, identity: str, overwrite: bool) -> bool:
    """Whether the folder's blocks are made of `identity`; those of another are refused or may be dropped."""
    known = folder / IDENTITY
    if not known.is_file():
        return False
    if known.read_text(encoding="utf-8") == identity:
        return True
    if not overwrite:
        raise UserError(
            f"{folder} holds the finished blocks of another command, of {_differing(known, identity)}. "
            "Repeat that command to complete it, or drop them with --overwrite."
        )
    return False


def _differing(known: Path, identity: str) -> str:
    old, new = json.loads(known.read_text(encoding="utf-8")), json.loads(identity)
    flat = [values | values.pop("config") for values in (old, new)]
    names = [name for name in flat[0] | flat[1] if flat[0].get(name) != flat[1].get(name)]
    return f"another {', '.join(names)}" if names else "other things"


def _finished(file: Path) -> pa.Table | None:
    """A block that an earlier command made; `None` where there is none, or a damaged one."""
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException):  # not there, or damaged
        return None


def _as_parquet(part: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(part, sink)
    return bytes(sink.getvalue())


def _join(files: Sequence[Path], output: Path, schema: pa.Schema) -> None:
    """Write `output` of the blocks, a row group each; others see the old file or all of the new."""
    with run.replacing(output) as draft, pq.ParquetWriter(draft, schema) as writer:
        for file in files:
            writer.write_table(pq.read_table(file).replace_schema_metadata(schema.metadata))
