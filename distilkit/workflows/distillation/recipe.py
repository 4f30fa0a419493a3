"""`--recipe auto`: the best we know how to make of this data, teacher and device, told as it is chosen."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from distilkit.config import OWN_LAYERS, AugmentConfig, DistillConfig, resolve
from distilkit.config.fields import changed, flag
from distilkit.data import transfer
from distilkit.data.sampling import CorpusSize
from distilkit.data.sources import measure
from distilkit.hardware.precision import default_device
from distilkit.models.architectures import HEADS
from distilkit.models.loading import load_config, load_tokenizer
from distilkit.models.locating import find_model
from distilkit.progress import Reporter
from distilkit.workflows.augmentation.blocks import AlreadyThere, Busy
from distilkit.workflows.augmentation.workflow import augment, name_of

# Words that a BiLSTM and a transformer read in all, which two cores do in some 15 minutes (the teacher not
# counted) and a GPU in less: more still help, but little for the time they take.
READ = {"cpu": 25_000_000, "cuda": 100_000_000}
READ_BY_LAYERS = {"cpu": 3_000_000, "cuda": 30_000_000}
FEWEST_EPOCHS, MOST_EPOCHS = 3, 30
LEAST_RATIO = 0.5  # of new texts to training rows: below it they are not worth their making
MANY = 100_000  # rows of an epoch from which a larger batch pays
MADE_OF = {"tinybert": ("bert",), "distilbert": ("bert", "distilbert")}  # whose layers each can take
AUGMENTED = "augmented"  # a transfer set that has yet to be made
VARIANTS = 20  # new texts of each (Tang et al. 2019, Jiao et al. 2020)
NEW = 0.7  # of the variants, about; the others are repeats
WAIT = 0.5  # seconds between two looks at whether another process is done
SOURCE = ("dataset", "data_dir", "text_column", "text_pair_column", "label_column", "max_train_samples")


class Choice(NamedTuple):
    """A field, what it is set to, and why."""

    name: str
    value: Any
    why: str


@dataclass(frozen=True)
class Facts:
    """What the choices depend on: rows of the splits and of the text given, and the first teacher's shape.

    `words` are those of a row, on average, as far as the student reads it.
    """

    rows: int
    words: float
    unsupervised: int
    device: str
    kind: str
    layers: int | None
    can_augment: bool
    heads: int | None = HEADS
    given: int = 0


def follow(config: DistillConfig, home: Path, reporter: Reporter) -> DistillConfig:
    """`config` with the recipe written out: what was given stands, every choice is told with its reason.

    Args:
        home: the folder for text that has yet to be made.

    Raises:
        UserError: as `distill`, where data or teacher cannot be read.
    """
    values: dict[str, Any] = {}
    for choice in choices(config, _facts(config)):
        values[choice.name] = choice.value
        shown = " ".join(choice.value) if isinstance(choice.value, tuple) else choice.value
        reporter.note(f"recipe: {flag(choice.name)} {shown} ({choice.why})")
    if values.get("transfer") == (AUGMENTED,):
        values["transfer"] = (str(_augmented(config, home, reporter)),)
    return changed(config, recipe=None, **values)


def without_text(config: DistillConfig) -> DistillConfig:
    """`config` as `follow` would write it, but for text that has yet to be made. Nothing is told."""
    values = {choice.name: choice.value for choice in choices(config, _facts(config))}
    if values.get("transfer") == (AUGMENTED,):
        del values["transfer"]
        values["transfer_ratio"] = None
    return changed(config, recipe=None, **values)


def without_recipe(config: DistillConfig) -> DistillConfig:
    """`config` as it was given, without the text that the recipe would have chosen, and how much of it."""
    return changed(config, recipe=None, transfer_ratio=config.transfer_ratio if config.transfer else None)


def choices(config: DistillConfig, facts: Facts) -> Iterator[Choice]:
    """What the recipe sets: fields that are not given."""
    for choice in (_for_bilstm if config.student == "bilstm" else _for_encoder)(config, facts):
        if getattr(config, choice.name) in (None, ()):
            yield choice


def _for_bilstm(config: DistillConfig, facts: Facts) -> Iterator[Choice]:
    if config.vocabulary_size is None:  # which is of words
        yield Choice(
            "vocabulary", "teacher", "its word-pieces and their vectors know words that the data lacks"
        )
    text, rows = _transfer(config, facts)
    yield from text
    yield _epochs(READ[facts.device] / facts.words, rows)
    if rows >= MANY and config.batch_size is None:
        yield Choice("batch_size", 128, "there are many rows")
        yield Choice("learning_rate", 2e-3, "for the larger batch")


def _for_encoder(config: DistillConfig, facts: Facts) -> Iterator[Choice]:
    wanted = READ_BY_LAYERS[facts.device] / facts.words
    layers = config.layers or OWN_LAYERS.get(config.student, 0)
    if facts.kind in MADE_OF.get(config.student, ()) and layers <= (facts.layers or 0):
        yield Choice("init", "teacher", f"{layers} of its {facts.layers} layers, which know the task already")
    if config.init == "random" and _can_match(config, facts):
        yield Choice(
            "method", "tinybert", "layers that start at random learn from the teacher's layers first"
        )
        yield _epochs(wanted, facts.rows)._replace(name="layer_epochs")
    text, rows = _transfer(config, facts)
    most = min(float(VARIANTS), wanted / FEWEST_EPOCHS / max(1, facts.rows) - 1)
    if text and facts.rows and rows > (1 + most) * facts.rows and config.transfer_ratio is None:
        if most < LEAST_RATIO:
            text, rows = [], facts.rows
        else:
            ratio = round(most, 1)
            text.append(Choice("transfer_ratio", ratio, "all of it would take too long; others each epoch"))
            rows = round((1 + ratio) * facts.rows)
    yield from text
    yield _epochs(wanted, rows)


def _can_match(config: DistillConfig, facts: Facts) -> bool:
    """Whether TinyBERT's first stage is open: one teacher, with layers, and heads like the student's.

    Students that are made of sizes alone take over its tokenizer; another's tokens may be other ones.
    """
    alike = facts.kind != "bilstm" and facts.heads == HEADS and config.student in MADE_OF
    return config.method in (None, "tinybert") and len(config.teacher) == 1 and alike


def _epochs(wanted: float, rows: int) -> Choice:
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(wanted / max(1, rows))))
    return Choice("epochs", epochs, f"some {rows:,} rows an epoch")


def _transfer(config: DistillConfig, facts: Facts) -> tuple[list[Choice], int]:
    """Text to distill on, and the rows of an epoch, as far as they are known."""
    ratio = config.transfer_ratio

    def with_text(rows: int) -> int:
        return facts.rows + (rows if ratio is None else transfer.per_epoch(ratio, facts.rows))

    if config.transfer:
        return [], with_text(facts.given)
    if not config.runs_teacher:
        return [], facts.rows
    if facts.unsupervised:
        why = f"{facts.unsupervised:,} real texts for the teacher to label"
        return [Choice("transfer", ("unsupervised",), why)], with_text(facts.unsupervised)
    if not facts.can_augment:
        return [], facts.rows
    why = f"{VARIANTS} new texts of every training row for the teacher to label"
    return [Choice("transfer", (AUGMENTED,), why)], with_text(round(VARIANTS * NEW * facts.rows))


def _facts(config: DistillConfig) -> Facts:
    nothing = CorpusSize(0, 0.0)
    splits = measure(config) if config.has_dataset else {}
    given = transfer.measure(config) if config.transfer else nothing
    teacher = load_config(find_model(config.teacher[0]))
    own = splits.get("train", nothing)
    longest = resolve(config).max_length
    assert longest
    return Facts(
        rows=min(own.rows, config.max_train_samples or own.rows),
        words=max(1.0, min(own.words or given.words, longest)),
        unsupervised=splits.get("unsupervised", nothing).rows,
        device="cuda" if default_device().type == "cuda" else "cpu",
        kind=teacher.model_type,
        layers=getattr(teacher, "num_hidden_layers", None),
        can_augment=find_spec("textblob") is not None,
        heads=getattr(teacher, "num_attention_heads", None),
        given=given.rows,
    )


def _augmented(config: DistillConfig, home: Path, reporter: Reporter) -> Path:
    """The file of new texts in `home`: made now, unless an earlier run made the same."""
    given: dict[str, Any] = {name: getattr(config, name) for name in SOURCE}
    given["mask_token"] = load_tokenizer(find_model(config.teacher[0])).mask_token  # which it has learned
    wanted = AugmentConfig(**given, variants=VARIANTS, output=home / "augmented.parquet")
    output = home / name_of(wanted)
    waits = False
    while not output.exists():
        try:
            made = augment(AugmentConfig(**given, variants=VARIANTS, output=output), reporter)
        except Busy:  # another seed of this student, perhaps
            if not waits:
                reporter.note(f"augment: another process is making {output}; waiting for it")
            waits = True
            time.sleep(WAIT)
        except AlreadyThere:  # that process was done when this one had the lock
            break
        else:
            reporter.note(f"augment: {made.rows:,} rows made of {made.sources:,}, kept in {made.path}")
    return output
