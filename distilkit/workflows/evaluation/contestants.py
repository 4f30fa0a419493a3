"""Who is scored side by side, and what each is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from distilkit.config import DistillConfig, EvaluateConfig
from distilkit.models.classifier import Classifier
from distilkit.scores.comparison import Contestant
from distilkit.workflows.evaluation.scoring import ModelScores, load


@dataclass(frozen=True)
class Contestants:
    """Models, then files, then endpoints, and for each the place of its teacher and of its labels-only twin.

    A twin is where `gap_recovered` begins: the student that is named, for any model, else the only run of the
    same architecture at alpha 1.
    """

    models: list[Classifier]
    files: tuple[str, ...]
    endpoints: tuple[str, ...]
    teachers: list[int | None]
    twins: list[int | None]

    @property
    def names(self) -> list[str]:
        """As on the command line."""
        return _names(self.models, self.files, self.endpoints)

    def contestants(self, answered: Sequence[ModelScores]) -> list[Contestant]:
        """Their answers, and what these are compared with."""
        return [
            Contestant(one.name, one.answers, self.teachers[place], self.twins[place])
            for place, one in enumerate(answered)
        ]


def choose_contestants(config: EvaluateConfig) -> Contestants:
    """Load the models of `config`, and find out who was whose teacher.

    Raises:
        UserError: when one cannot be loaded.
    """
    others = {*config.predictions, *config.endpoint}
    extra = [name for name in (config.teacher, config.labels_only) if name and name not in others]
    models = [load(name, config) for name in dict.fromkeys([*config.models, *extra])]
    names = _names(models, config.predictions, config.endpoint)
    places = range(len(names))
    teachers = [_teacher_of(place, names, models, config) for place in places]
    twins = [_twin_of(place, names, models, config) for place in places]
    twins = [twin if twin != teacher else None for twin, teacher in zip(twins, teachers, strict=True)]
    return Contestants(models, config.predictions, config.endpoint, teachers, twins)


def _names(models: list[Classifier], files: tuple[str, ...], endpoints: tuple[str, ...]) -> list[str]:
    return [*(one.name for one in models), *files, *endpoints]


def _teacher_of(place: int, names: list[str], models: list[Classifier], config: EvaluateConfig) -> int | None:
    if config.teacher:
        wanted = names.index(config.teacher)
        return None if wanted == place else wanted
    run = models[place].run if place < len(models) else None
    named = run.environment.get("teachers", []) if run else []
    if len(named) != 1:  # a mean of several is none of the models here
        return None
    return next(
        (i for i, one in enumerate(models) if i != place and one.fingerprint == named[0]["fingerprint"]),
        None,
    )


def _twin_of(place: int, names: list[str], models: list[Classifier], config: EvaluateConfig) -> int | None:
    if config.labels_only:
        twin = names.index(config.labels_only)
        return twin if twin != place else None
    if place >= len(models):
        return None
    kind = type(models[place].model)
    found = [
        number for number, one in enumerate(models) if type(one.model) is kind and _had_labels_alone(one)
    ]
    return found[0] if len(found) == 1 and found[0] != place else None


def _had_labels_alone(one: Classifier) -> bool:
    config = one.run.config if one.run else None
    return isinstance(config, DistillConfig) and not config.runs_teacher
