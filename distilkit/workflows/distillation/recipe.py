"""`--recipe auto`: what it chooses for this data, teacher and device, and why.

`choose` holds the decisions; `apply_recipe` writes them into a config and prints each with its reason.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pyarrow.parquet

from distilkit.config import DEFAULT_LAYERS, AugmentConfig, DistillConfig, resolve
from distilkit.config.fields import flag, replace_values
from distilkit.config.student import WORD_STUDENTS
from distilkit.data import transfer
from distilkit.data.sampling import CorpusSize
from distilkit.data.sources import measure
from distilkit.errors import pluralize
from distilkit.hardware.device import default_device
from distilkit.models.architectures import HEADS
from distilkit.models.loading import load_config, load_tokenizer
from distilkit.progress import Reporter
from distilkit.runs.locating import find_model
from distilkit.workflows.augmentation.blocks import AlreadyThere, Busy
from distilkit.workflows.augmentation.workflow import augment, name_of

# Words that a student reads over all epochs. Two cores read them in some 15 minutes (without the teacher's
# time) and a GPU in less; more words still help, but little for the time they take.
BILSTM_WORD_BUDGET = {"cpu": 25_000_000, "cuda": 100_000_000}
STATIC_WORD_BUDGET = {"cpu": 50_000_000, "cuda": 100_000_000}
ENCODER_WORD_BUDGET = {"cpu": 3_000_000, "cuda": 30_000_000}
MIN_EPOCHS, MAX_EPOCHS = 3, 30
MIN_TRANSFER_RATIO = 0.5  # new texts per training row; fewer are not worth generating
LARGE_EPOCH_ROWS = 100_000  # from here on a larger batch pays
COPYABLE_FROM = {"tinybert": ("bert",), "distilbert": ("bert", "distilbert")}  # model types, by student
AUGMENTED = "augmented"  # stands for a transfer file that is yet to be generated
VARIANTS_PER_ROW = 20  # Tang et al. 2019, Jiao et al. 2020
KEPT_VARIANT_SHARE = 0.7  # about; the other variants are repeats
SAMPLED_ROWS = 500  # of which new texts are generated for an estimate
POLL_SECONDS = 0.5
DATA_FIELDS = ("dataset", "data_dir", "text_column", "text_pair_column", "label_column", "max_train_samples")


class Choice(NamedTuple):
    """A field that the recipe sets, its value and the reason."""

    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Facts:
    """Facts that the choices depend on.

    Attributes:
        rows: of the training split.
        words_per_row: on average, as far as the student reads a row.
        unsupervised_rows: of the dataset's `unsupervised` split.
        device: `cpu` or `cuda`.
        teacher_type: model type of the first teacher, empty where all are files; `teacher_layers` and
            `teacher_heads` are its sizes.
        can_augment: whether the extra that generates texts is installed.
        transfer_rows: of the files in `--transfer`.
    """

    rows: int
    words_per_row: float
    unsupervised_rows: int
    device: str
    teacher_type: str
    teacher_layers: int | None
    can_augment: bool
    teacher_heads: int | None = HEADS
    transfer_rows: int = 0


def apply_recipe(config: DistillConfig, home: Path, reporter: Reporter) -> DistillConfig:
    """Write the recipe into `config`: options that were set stand; each choice is printed.

    Args:
        home: the folder for generated texts.

    Raises:
        UserError: as `distill`, where data or teacher cannot be read.
    """
    values: dict[str, Any] = {choice.name: choice.value for choice in list_choices(config, reporter)}
    if values.get("transfer") == (AUGMENTED,):
        values["transfer"] = (str(_generate_texts(config, home, reporter)),)
    return replace_values(config, recipe=None, **values)


def list_choices(config: DistillConfig, reporter: Reporter) -> list[Choice]:
    """Return what the recipe chooses, and print each choice with its reason."""
    choices = list(choose(config, read_facts(config)))
    if config.teacher_file and not config.transfer:
        reporter.note(
            "recipe: no text is added, as a --teacher-file cannot label it; "
            "give --transfer FILE for text that it has targets for"
        )
    for choice in choices:
        shown = " ".join(choice.value) if isinstance(choice.value, tuple) else choice.value
        reporter.note(f"recipe: {flag(choice.name)} {shown} ({choice.reason})")
    return choices


def apply_choices(config: DistillConfig, choices: Sequence[Choice]) -> DistillConfig:
    """Write the recipe's choices into `config`, without texts that are yet to be generated."""
    values = {choice.name: choice.value for choice in choices}
    if values.get("transfer") == (AUGMENTED,):
        del values["transfer"]
        values["transfer_ratio"] = None
    return replace_values(config, recipe=None, **values)


def drop_recipe(config: DistillConfig) -> DistillConfig:
    """Return `config` without its recipe, and without a ratio for text that only the recipe would add."""
    return replace_values(
        config, recipe=None, transfer_ratio=config.transfer_ratio if config.transfer else None
    )


def choose(config: DistillConfig, facts: Facts) -> Iterator[Choice]:
    """Yield what the recipe sets: fields of `config` that are not set."""
    choose_all = _choose_for_word_student if config.has_word_vectors else _choose_for_encoder
    for choice in choose_all(config, facts):
        if getattr(config, choice.name) in (None, ()):
            yield choice


def _choose_for_word_student(config: DistillConfig, facts: Facts) -> Iterator[Choice]:
    if config.vocabulary_size is None and config.teacher:  # a size asks for words
        yield Choice(
            "vocabulary", "teacher", "its word-pieces and their vectors know words that the data lacks"
        )
    text, rows = _choose_transfer(config, facts)
    yield from text
    budget = STATIC_WORD_BUDGET if config.student == "static" else BILSTM_WORD_BUDGET
    yield _choose_epochs(budget[facts.device] / facts.words_per_row, rows)
    if rows >= LARGE_EPOCH_ROWS and config.batch_size is None:
        yield Choice("batch_size", 128, "there are many rows")
        yield Choice("learning_rate", 2e-3, "for the larger batch")


def _choose_for_encoder(config: DistillConfig, facts: Facts) -> Iterator[Choice]:
    row_budget = ENCODER_WORD_BUDGET[facts.device] / facts.words_per_row
    layers = config.layers or DEFAULT_LAYERS.get(config.student, 0)
    if facts.teacher_type in COPYABLE_FROM.get(config.student, ()) and layers <= (facts.teacher_layers or 0):
        yield Choice(
            "init", "teacher", f"{layers} of its {facts.teacher_layers} layers, which know the task already"
        )
    if config.init == "random" and _can_match_layers(config, facts):
        yield Choice(
            "method", "tinybert", "layers that start at random learn from the teacher's layers first"
        )
        yield _choose_epochs(row_budget, facts.rows)._replace(name="layer_epochs")
    text, rows = _choose_transfer(config, facts)
    max_ratio = min(float(VARIANTS_PER_ROW), row_budget / MIN_EPOCHS / max(1, facts.rows) - 1)
    if text and facts.rows and rows > (1 + max_ratio) * facts.rows and config.transfer_ratio is None:
        if max_ratio < MIN_TRANSFER_RATIO:
            text, rows = [], facts.rows
        else:
            ratio = round(max_ratio, 1)
            text.append(Choice("transfer_ratio", ratio, "all of it would take too long; others each epoch"))
            rows = round((1 + ratio) * facts.rows)
    yield from text
    yield _choose_epochs(row_budget, rows)


def _can_match_layers(config: DistillConfig, facts: Facts) -> bool:
    """Return whether TinyBERT's first stage is possible: one teacher with layers, and equally many heads.

    A student built from sizes takes over its teacher's tokenizer; any other may split text differently.
    """
    is_alike = (
        facts.teacher_type not in WORD_STUDENTS
        and facts.teacher_heads == HEADS
        and config.student in COPYABLE_FROM
    )
    has_one_model = len(config.teacher) == 1 and not config.teacher_file
    return config.method in (None, "tinybert") and has_one_model and is_alike


def _choose_epochs(row_budget: float, rows: int) -> Choice:
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, round(row_budget / max(1, rows))))
    return Choice("epochs", epochs, f"some {pluralize(rows, 'row')} an epoch")


def _choose_transfer(config: DistillConfig, facts: Facts) -> tuple[list[Choice], int]:
    """Choose text to distill on; return it with the rows of an epoch, as far as they are known."""
    ratio = config.transfer_ratio

    def with_text(rows: int) -> int:
        return facts.rows + (rows if ratio is None else transfer.per_epoch(ratio, facts.rows))

    if config.transfer:
        return [], with_text(facts.transfer_rows)
    if not config.runs_teacher or config.teacher_file:  # a file says nothing of texts that it lacks
        return [], facts.rows
    if facts.unsupervised_rows:
        reason = f"{facts.unsupervised_rows:,} real texts for the teacher to label"
        return [Choice("transfer", ("unsupervised",), reason)], with_text(facts.unsupervised_rows)
    if not facts.can_augment:
        return [], facts.rows
    reason = f"{VARIANTS_PER_ROW} new texts of every training row for the teacher to label"
    return [Choice("transfer", (AUGMENTED,), reason)], with_text(
        round(VARIANTS_PER_ROW * KEPT_VARIANT_SHARE * facts.rows)
    )


def read_facts(config: DistillConfig) -> Facts:
    """Read what the choices depend on: sizes of texts, and the first teacher's config."""
    empty = CorpusSize(0, 0.0)
    splits = measure(config) if config.has_dataset else {}
    text = transfer.measure(config) if config.transfer else empty
    teacher = load_config(find_model(config.teacher[0])) if config.teacher else None
    train = splits.get("train", empty)
    max_length = resolve(config).max_length
    assert max_length
    return Facts(
        rows=min(train.rows, config.max_train_samples or train.rows),
        words_per_row=max(1.0, min(train.words or text.words, max_length)),
        unsupervised_rows=splits.get("unsupervised", empty).rows,
        device="cuda" if default_device().type == "cuda" else "cpu",
        teacher_type=teacher.model_type if teacher else "",
        teacher_layers=getattr(teacher, "num_hidden_layers", None),
        can_augment=find_spec("textblob") is not None,
        teacher_heads=getattr(teacher, "num_attention_heads", None),
        transfer_rows=text.rows,
    )


@dataclass(frozen=True)
class NewTexts:
    """Texts that a recipe generates: how many, in how many seconds, and how many per row an epoch reads."""

    rows: int
    seconds: float
    ratio: float | None


def estimate_new_texts(config: DistillConfig, choices: Sequence[Choice]) -> NewTexts | None:
    """Estimate what the recipe will generate, from new texts of a sample of the training rows.

    Returns:
        `None` where it generates nothing. Texts that an earlier run kept are counted, and take no time.
    """
    values = {choice.name: choice.value for choice in choices}
    if values.get("transfer") != (AUGMENTED,):
        return None
    ratio = values.get("transfer_ratio", config.transfer_ratio)
    draft = _augmentation_of(config, config.output_dir.parent)
    earlier_file = draft.output.with_name(name_of(draft))
    if earlier_file.exists():
        return NewTexts(pyarrow.parquet.read_metadata(earlier_file).num_rows, 0.0, ratio)
    train_rows = read_facts(config).rows
    with TemporaryDirectory() as folder:
        sample = replace_values(
            draft, max_train_samples=min(SAMPLED_ROWS, train_rows), output=Path(folder) / "sample.parquet"
        )
        made = augment(sample)
    rows = round(made.rows * train_rows / made.sources)
    return NewTexts(rows, rows / made.rows_per_second if made.rows_per_second else 0.0, ratio)


def _augmentation_of(config: DistillConfig, home: Path) -> AugmentConfig:
    options: dict[str, Any] = {name: getattr(config, name) for name in DATA_FIELDS}
    options["mask_token"] = load_tokenizer(find_model(config.teacher[0])).mask_token  # the teacher knows it
    return AugmentConfig(**options, variants=VARIANTS_PER_ROW, output=home / "augmented.parquet")


def _generate_texts(config: DistillConfig, home: Path, reporter: Reporter) -> Path:
    """Return the file of new texts in `home`: generated now, unless an earlier run generated the same."""
    draft = _augmentation_of(config, home)
    output = home / name_of(draft)
    is_waiting = False
    while not output.exists():
        try:
            augmentation = augment(replace_values(draft, output=output), reporter)
        except Busy:  # perhaps another seed of this student
            if not is_waiting:
                reporter.note(f"augment: another process is making {output}; waiting for it")
            is_waiting = True
            time.sleep(POLL_SECONDS)
        except AlreadyThere:  # by the process that had the lock
            break
        else:
            reporter.note(
                f"augment: {pluralize(augmentation.rows, 'row')} made of {augmentation.sources:,}, "
                f"kept in {augmentation.path}"
            )
    return output
