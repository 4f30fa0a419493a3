"""Choose the models, files and endpoints of an evaluation, and what each is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from distilkit.config import DistillConfig, EvaluateConfig
from distilkit.data.shards import fingerprint_files
from distilkit.models.classifier import Classifier
from distilkit.scores.comparison import Contestant
from distilkit.workflows.evaluation.scoring import ModelScores, load


@dataclass(frozen=True)
class Contestants:
    """List models, then files, then endpoints, with the index of each one's teacher and labels-only baseline.

    Of the files, those of teachers come last. `gap_recovered` is counted from the labels-only baseline:
    `--labels-only` for every model, else the only run with the same architecture and alpha 1.
    """

    models: list[Classifier]
    files: tuple[str, ...]
    endpoints: tuple[str, ...]
    teachers: list[int | None]
    labels_only_baselines: list[int | None]

    @property
    def names(self) -> list[str]:
        """Return the names as on the command line."""
        return _all_names(self.models, self.files, self.endpoints)

    def with_answers(self, model_scores: Sequence[ModelScores]) -> list[Contestant]:
        """Return the contestants with their answers."""
        return [
            Contestant(scores.name, scores.answers, teacher, labels_only)
            for scores, teacher, labels_only in zip(
                model_scores, self.teachers, self.labels_only_baselines, strict=True
            )
        ]


def choose_contestants(config: EvaluateConfig) -> Contestants:
    """Load the models of `config`, and find the teacher and the labels-only baseline of each.

    Raises:
        UserError: when a model cannot be loaded.
    """
    files = (*config.predictions, *config.teacher_file)
    not_models = {*files, *config.endpoint}
    references = [name for name in (config.teacher, config.labels_only) if name and name not in not_models]
    models = [load(name, config) for name in dict.fromkeys([*config.models, *references])]
    names = _all_names(models, files, config.endpoint)
    teachers = [_find_teacher(i, names, models, config) for i in range(len(names))]
    baselines = [_find_labels_only(i, names, models, config) for i in range(len(names))]
    # A gap between a teacher and itself cannot be recovered.
    baselines = [
        baseline if baseline != teacher else None
        for baseline, teacher in zip(baselines, teachers, strict=True)
    ]
    return Contestants(models, files, config.endpoint, teachers, baselines)


def _all_names(models: list[Classifier], files: tuple[str, ...], endpoints: tuple[str, ...]) -> list[str]:
    return [*(model.name for model in models), *files, *endpoints]


def _find_teacher(i: int, names: list[str], models: list[Classifier], config: EvaluateConfig) -> int | None:
    if config.teacher:
        teacher = names.index(config.teacher)
        return None if teacher == i else teacher
    files = [names.index(file) for file in config.teacher_file]
    if i in files:
        return None
    only_file = files[0] if len(files) == 1 else None
    run = models[i].run if i < len(models) else None
    recorded = run.environment.get("teachers", []) if run else []
    if len(recorded) != 1:  # the mean of several teachers is none of the models here
        return only_file
    # By weights and not by path: runs are moved and copied.
    fingerprint = recorded[0]["fingerprint"]
    fingerprints = {j: model.fingerprint for j, model in enumerate(models) if j != i}
    fingerprints |= {j: fingerprint_files(names[j], "--teacher-file") for j in files}
    return next((j for j, value in fingerprints.items() if value == fingerprint), only_file)


def _find_labels_only(
    i: int, names: list[str], models: list[Classifier], config: EvaluateConfig
) -> int | None:
    if config.labels_only:
        baseline = names.index(config.labels_only)
        return baseline if baseline != i else None
    if i >= len(models):
        return None
    architecture = type(models[i].model)
    candidates = [
        j
        for j, model in enumerate(models)
        if type(model.model) is architecture and _was_trained_on_labels_alone(model)
    ]
    return candidates[0] if len(candidates) == 1 and candidates[0] != i else None


def _was_trained_on_labels_alone(model: Classifier) -> bool:
    config = model.run.config if model.run else None
    return isinstance(config, DistillConfig) and not config.runs_teacher
