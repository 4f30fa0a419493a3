"""Find out which evaluated rows a model knows from its training, and read the data of that training."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distilkit.config import DistillConfig, TrainConfig
from distilkit.data import sources
from distilkit.data.duplicates import content_keys
from distilkit.data.teacher_files import cover, open_teacher_files
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.errors import UserError, join_first
from distilkit.models.classifier import Classifier
from distilkit.progress import Reporter
from distilkit.runs.run import Run
from distilkit.workflows.evaluation.identity import count_recorded_rows, has_changed

# What decides the rows that a training reads, besides whether it reads labels.
ROW_OPTIONS = (
    *("dataset", "data_dir", "text_column", "text_pair_column", "label_column"),
    *("max_train_samples", "max_eval_samples"),
)


@dataclass(frozen=True)
class RunData:
    """Hold the splits that a run was trained on, and the keys of their rows."""

    data: TextData

    @cached_property
    def training_keys(self) -> frozenset[bytes]:
        """Return the keys of the rows that it was trained on; a run on transfer text alone may have none."""
        return frozenset(content_keys(self.data.texts("train")) if "train" in self.data.splits else ())

    @cached_property
    def selection_keys(self) -> frozenset[bytes]:
        """Return the keys of the rows that chose its epoch and temperature."""
        return frozenset(content_keys(self.data.texts("validation")))


@dataclass
class TrainingRows:
    """Compare evaluated rows, `texts`, with those of trainings; data that runs share is read once."""

    texts: Texts
    _read: dict[object, RunData | str] = field(default_factory=dict)
    _unreadable: dict[str, list[str]] = field(default_factory=dict)

    @cached_property
    def keys(self) -> list[bytes]:
        """Return the keys of the evaluated rows."""
        return content_keys(self.texts)

    def count(self, classifier: Classifier | None) -> tuple[int | None, int | None]:
        """Return how many of the rows a model was trained on, and how many chose its epoch.

        Both are `None` for a model whose training data is not known or cannot be read.
        """
        run_data = self.read(classifier)
        if run_data is None:
            return None, None
        return (
            sum(key in run_data.training_keys for key in self.keys),
            sum(key in run_data.selection_keys for key in self.keys),
        )

    def read(self, classifier: Classifier | None) -> RunData | None:
        """Return the data of a model's run; `None` without a run, or where it cannot be read."""
        if classifier is None or classifier.run is None or not classifier.run.config.has_dataset:
            return None
        source = _describe_source(classifier.run)
        if source not in self._read:
            self._read[source] = _load(classifier.run, classifier)
        run_data = self._read[source]
        if not isinstance(run_data, str) and has_changed(classifier.run, classifier, run_data.data):
            run_data = "it has changed since"
        if isinstance(run_data, str):
            names = self._unreadable.setdefault(run_data, [])
            if classifier.name not in names:
                names.append(classifier.name)
            return None
        return run_data

    def note_unreadable(self, reporter: Reporter) -> None:
        """Say in one note which models could not be compared with their training data, and why."""
        if not self._unreadable:
            return
        reasons = [f"{join_first(names)} ({reason})" for reason, names in self._unreadable.items()]
        reporter.note(f"skipped the comparison with the training data of {'; '.join(reasons[:3])}")


def _describe_source(run: Run) -> tuple[object, ...]:
    """Return what is equal for runs that trained on the same rows."""
    config = run.config
    source = (*(str(getattr(config, name, None)) for name in ROW_OPTIONS), _reads_labels(config))
    if not isinstance(config, DistillConfig) or config.missing != "skip":
        return source
    return (*source, config.teacher_file, config.targets, count_recorded_rows(run, "train"))


def _reads_labels(config: TrainConfig | DistillConfig) -> bool:
    return not isinstance(config, DistillConfig) or config.reads_labels


def _load(run: Run, classifier: Classifier) -> RunData | str:
    """Return the data of a run, or why it cannot be read."""
    config = run.config
    reads_labels = _reads_labels(config)
    if config.data_dir and not config.data_dir.exists():
        return f"folder {str(config.data_dir)!r} not found"
    options: dict[str, Any] = {"train_labels": reads_labels, "needs_train": False}
    if not reads_labels:
        options["names"] = classifier.class_names
    try:
        return RunData(
            _keep_covered(run, sources.load_for_training(config, config.max_train_samples, **options))
        )
    except UserError as error:
        return str(error).split(". ")[0].rstrip(".")


def _keep_covered(run: Run, data: TextData) -> TextData:
    """Return the data without the training rows that `--missing skip` left out.

    Whether there are any, the run has recorded: of a student on labels alone, earlier versions left them out
    only where one that read the file was distilled with it.

    Raises:
        UserError: where a teacher file cannot be read any more, or gives another number of rows.
    """
    config, recorded_rows = run.config, count_recorded_rows(run, "train")
    if not isinstance(config, DistillConfig) or config.missing != "skip" or "train" not in data.splits:
        return data
    if len(data.splits["train"]) == recorded_rows:
        return data
    # No row here is transfer text, so its shards are files like any: their texts are looked up.
    data, _ = cover(data, "train", open_teacher_files(config, data.names), config.missing)
    if len(data.splits["train"]) != recorded_rows:
        raise UserError("its training rows or its teacher files have changed since.")
    return data
