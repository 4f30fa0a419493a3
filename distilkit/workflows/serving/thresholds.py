"""The threshold of a fallback: chosen on rows, printed, and stored for workers and later starts."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from distilkit.config import DataConfig, ServeConfig
from distilkit.config.fields import field_infos
from distilkit.data import sources
from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions, Predictor
from distilkit.errors import UserError, pluralize
from distilkit.progress import Reporter
from distilkit.runs.cache import cache_root
from distilkit.runs.folder import read_object, write_json
from distilkit.runs.run import Run, is_run
from distilkit.scores.fallback import ThresholdChoice, choose_threshold, count_rows_needed
from distilkit.workflows.serving.teachers import Teacher, find_likeliest

SCHEMA = "distilkit.fallback/1"
FOLDER = "fallback"
VALIDATION = "validation"
PIECE_ROWS = 64  # of the teacher, between two reports of progress


@dataclass(frozen=True)
class Threshold:
    """Say how sure the student must be, and how that was chosen; `choice` is `None` for a number typed."""

    value: float
    choice: ThresholdChoice | None = None


def find_threshold(
    config: ServeConfig,
    student: Predictor,
    teacher: Teacher,
    answer: Callable[[Texts], Predictions],
    reporter: Reporter,
) -> Threshold:
    """Return the threshold of `config`, chosen on rows unless it is a number or was chosen before.

    Args:
        answer: the teacher's answers in terms of the student's classes.

    Raises:
        UserError: when there are no rows, too few of them, or no threshold meets the agreement.
    """
    if config.fixed_threshold is not None:
        return Threshold(config.fixed_threshold)
    texts = read_rows(config, student)
    file = _locate(config, student, teacher, texts)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Workers start together, and a teacher's answers may cost money: one of them chooses.
    with FileLock(file.with_suffix(".lock")):
        if file.exists():
            choice = ThresholdChoice(**read_object(file)["choice"])
            reporter.note(f"{describe(choice, teacher.name)} Chosen before: {file}")
            return Threshold(choice.threshold, choice)
        choice = _choose(config, student, texts, answer, teacher.name, reporter)
        write_json(
            file,
            {
                "schema": SCHEMA,
                "model": config.model,
                "fallback": teacher.name,
                "choice": asdict(choice),
            },
        )
    reporter.note(f"{describe(choice, teacher.name)} Stored: {file}")
    return Threshold(choice.threshold, choice)


def read_rows(config: ServeConfig, student: Predictor) -> Texts:
    """Return the validation rows of `--data-dir` or `--dataset`, else those of the run.

    Raises:
        UserError: when there are none.
    """
    data, path = config.data, Path(config.model)
    if data is not None:
        splits = sources.RawSource(data).available()
        return sources.read_texts(data, splits[0] if len(splits) == 1 else VALIDATION)
    run = Run.load(path) if is_run(path) else None
    if run is None or not run.config.has_dataset:
        raise UserError(
            f"--threshold auto is chosen on rows, and {config.model} does not say which. Give some that "
            "it was not trained on: --data-dir FOLDER; or give a number: --threshold 0.9."
        )
    own_data = DataConfig(**{name: getattr(run.config, name) for name in field_infos(DataConfig)})
    return sources.load_for_evaluation(own_data, VALIDATION, [student.class_names]).texts(VALIDATION)


def _locate(config: ServeConfig, student: Predictor, teacher: Teacher, texts: Texts) -> Path:
    """Return the file of a choice: another one as soon as anything that it depends on changes."""
    rows = hashlib.sha256(texts.key_array().tobytes()).hexdigest()
    facts = (
        *(SCHEMA, student.fingerprint, student.class_names, student.max_length, student.precision),
        *(teacher.identity, config.precision, rows, config.min_agreement),
    )
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return cache_root() / FOLDER / f"{digest[:32]}.json"


def _choose(
    config: ServeConfig,
    student: Predictor,
    texts: Texts,
    answer: Callable[[Texts], Predictions],
    teacher: str,
    reporter: Reporter,
) -> ThresholdChoice:
    fewest = count_rows_needed(config.min_agreement)
    if len(texts) < fewest:
        raise UserError(
            f"--min-agreement {config.min_agreement:g}: {pluralize(len(texts), 'row')} cannot show that with "
            f"95 % confidence; it takes {fewest:,}. Give more rows with --data-dir, or ask for less."
        )
    predictions = student.predict(texts.first, texts.second)
    ids = []
    for start in range(0, len(texts), PIECE_ROWS):
        piece = texts.take(range(start, min(start + PIECE_ROWS, len(texts))))
        ids.append(find_likeliest(answer(piece)))
        reporter.advance(f"{teacher}, {VALIDATION}", start + len(piece), len(texts))
    same = predictions.ids == np.concatenate(ids)
    choice = choose_threshold(predictions.scores, same, config.min_agreement)
    if choice is None or choice.coverage == 0:
        raise UserError(
            f"--min-agreement {config.min_agreement:g}: no threshold meets it on {len(texts):,} rows. "
            f"{config.model} differs from {teacher} in {100 * (1 - same.mean()):.1f} % of them, also where "
            "it is most sure. Ask for less, give more rows with --data-dir, or serve the teacher itself."
        )
    return choice


def describe(choice: ThresholdChoice, teacher: str) -> str:
    """Return a choice in a sentence."""
    return (
        f"threshold {choice.threshold:.6g}: the student answers {100 * choice.coverage:.1f} % of "
        f"{choice.rows:,} rows alone, {teacher} the others. {100 * choice.agreement:.1f} % of the answers "
        f"are the teacher's; in all traffic like these rows at least {_floor(choice.agreement_bound):.2f} %, "
        f"with {100 * choice.confidence:.0f} % confidence."
    )


def _floor(share: float) -> float:
    return float(np.floor(share * 10_000) / 100)
