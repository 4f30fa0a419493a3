"""`augment`: new texts of the training split's, as one Parquet file.

The split is worked on in blocks of rows. Finished ones lie in `<output>.parts` until the file is complete, so
that the same command goes on where it was stopped.
"""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
from pydantic import TypeAdapter

from distilkit import __version__
from distilkit.config import AugmentConfig, resolve
from distilkit.data import sources as datasets
from distilkit.data.text_data import TextData
from distilkit.progress import SILENT, Reporter
from distilkit.runs import folder as run
from distilkit.workflows.augmentation.blocks import (
    check_not_locked,
    check_output,
    join_blocks,
    open_parts_folder,
    parquet_bytes,
    read_finished_block,
    split_into_blocks,
)
from distilkit.workflows.augmentation.generators import (
    DROPPED,
    METADATA,
    RULE,
    RowMaker,
    tang_generator,
    tinybert_generator,
)

SCHEMA = "distilkit.augmentation/1"


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

    def document(self) -> dict[str, object]:
        """Return the versioned JSON document."""
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
    check_output(config)
    check_not_locked(config)
    loaded = datasets.load_for_augmentation(config, config.max_train_samples)
    reporter.note_all(loaded.data.notes)
    sides = [list(column) for column in loaded.data.texts("train").take(loaded.rows).columns]
    make, made_with = (tang_generator if config.rule == "tang" else tinybert_generator)(
        config, sides, reporter
    )
    maker = RowMaker(config, loaded.data, loaded.rows, sides, make)
    identity = describe_origin(config, loaded.data, made_with)
    tally = _Tally()
    with open_parts_folder(config, identity, reporter) as folder:
        files = []
        for index, block in enumerate(split_into_blocks(sides)):
            files.append(folder / f"{index:06}.parquet")
            if (part := read_finished_block(files[-1])) is None:
                begun = time.perf_counter()
                part = maker.make(block)
                run.write_whole(files[-1], parquet_bytes(part))
                tally.add_made(len(part), time.perf_counter() - begun)
            else:
                maker.remember(part)
            tally.add(part)
            reporter.advance("rows augmented", int(block[-1]) + 1, len(loaded.rows))
        join_blocks(files, config.output, maker.schema.with_metadata({METADATA: identity}))
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
    """Return a file name from all that the rows of `config` depend on, except the tagger's version.

    Raises:
        UserError: as `augment`, where the data cannot be read.
    """
    config = resolve(config)
    data = datasets.load_for_augmentation(config, config.max_train_samples).data
    digest = sha256(describe_origin(config, data, {}).encode()).hexdigest()
    return f"{config.data_name}-augmented-{digest[:8]}.parquet"


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


def describe_origin(config: AugmentConfig, data: TextData, made_with: dict[str, object]) -> str:
    """Return all that the rows depend on, as JSON: the config, the texts, and tagger or models."""
    values = TypeAdapter(AugmentConfig).dump_python(config, mode="json")
    for name in ("output", "overwrite", "device"):
        del values[name]
    texts = {split: data.fingerprint(split, labels=False) for split in data.splits}
    identity = {"distilkit": __version__, "config": values, "texts": texts, **made_with}
    return json.dumps(identity, indent=1, ensure_ascii=False)
