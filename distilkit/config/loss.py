"""Options on the loss: the teachers, alpha, the method that matches layers."""

from typing import Literal, TypeVar

from pydantic import model_validator

from distilkit.config.fields import Floats, Strings, flag, option, replace_values
from distilkit.config.teacher_files import TeacherFileConfig

Method = Literal["logits", "tinybert", "pkd", "general"]
SoftLoss = Literal["mse", "kl"]

# Jiao et al. 2020, section 4.2 (10 to 20 epochs). Of the grid of Sun et al. 2019 for beta, 10 to 1000, 100
# adds 0.13 times the squared distance of the directions at BERT's width: of the order of the other terms.
METHOD_DEFAULTS: dict[str, dict[str, object]] = {
    "tinybert": {"layer_epochs": 10, "layer_learning_rate": 5e-5},
    "pkd": {"beta": 100.0},
}
METHOD_ONLY = {name: method for method, defaults in METHOD_DEFAULTS.items() for name in defaults}
# DistilBERT's. The higher it is, the more KL is MSE again, on another scale (Hinton 2015, section 2.1).
KL_TEMPERATURE = 2.0
# Of targets that are probabilities: a temperature other than 1 would change what the file says.
PROBABILITY_TEMPERATURE = 1.0

AnyLoss = TypeVar("AnyLoss", bound="LossConfig")


class LossConfig(TeacherFileConfig):
    """The teachers, and how they are weighed against the labels."""

    teacher: Strings = option(
        (),
        panel="Model",
        short="-t",
        basic=True,
        help="Run folder, model folder or Hub id; repeat it for the mean of several. Not needed for alpha 1.",
    )
    teacher_weight: Floats = option(
        (),
        panel="Model",
        help="Weight of each --teacher in the mean, then of each --teacher-file, in their order. "
        "(default: equal)",
    )
    alpha: float = option(
        0.5,
        ge=0,
        le=1,
        panel="Loss",
        short="-a",
        basic=True,
        help="Weight of the hard loss. 1: labels only, no teacher runs. 0: teacher only, no label in it.",
    )
    alpha_end: float | None = option(
        None,
        ge=0,
        le=1,
        panel="Loss",
        help="Final alpha; interpolated linearly from --alpha. (default: constant)",
    )
    soft_loss: SoftLoss | None = option(
        None,
        panel="Loss",
        help="Loss against the teacher. mse: on raw logits. kl: on probabilities at --temperature. "
        "(default: mse; kl where a --teacher-file holds no logits)",
    )
    temperature: float | None = option(
        None,
        gt=0,
        panel="Loss",
        help="kl: divides both models' logits; the loss is multiplied by its square. "
        "(default: 2; 1 where a --teacher-file holds no logits)",
    )
    method: Method | None = option(
        None,
        panel="Loss",
        help="tinybert: a stage before that matches layers; alpha is then 0 unless given. pkd: also matches "
        "[CLS] of the layers between. general: layers alone, on --corpus. (default: logits)",
    )
    layer_epochs: int | None = option(
        None, ge=1, panel="Loss", help="tinybert: epochs of its first stage. (default: 10)"
    )
    layer_learning_rate: float | None = option(
        None,
        gt=0,
        panel="Loss",
        help="tinybert: learning rate of its first stage, constant after the warm-up. (default: 5e-05)",
    )
    beta: float | None = option(
        None, gt=0, panel="Loss", help="pkd: weight of the [CLS] loss, beside alpha's two. (default: 100)"
    )

    @property
    def alphas(self) -> tuple[float, float]:
        """Return the weight of the hard loss at the first step and at the last."""
        return self.alpha, self.alpha if self.alpha_end is None else self.alpha_end

    @property
    def reads_labels(self) -> bool:
        """Return whether training labels are ever weighed."""
        return max(self.alphas) > 0

    @property
    def runs_teacher(self) -> bool:
        """Return whether teacher logits are ever weighed."""
        return min(self.alphas) < 1

    @property
    def reads_teacher_files(self) -> bool:
        """Return whether what teacher files hold decides the loss."""
        return bool(self.teacher_file) and self.runs_teacher

    @property
    def joins_teacher_files(self) -> bool:
        """Return whether teacher files decide which rows are trained on.

        With `--missing skip` they do so at alpha 1 too: a student on labels alone is compared with those that
        a teacher taught, and so learns from the same rows.
        """
        return bool(self.teacher_file) and (self.runs_teacher or self.missing == "skip")

    @model_validator(mode="after")
    def _check_loss(self) -> "LossConfig":
        self._check_method()
        self._check_teachers()
        is_mse = self.soft_loss == "mse" or (self.soft_loss is None and not self.reads_teacher_files)
        if self.temperature is not None and is_mse:
            raise ValueError(
                f"--temperature {self.temperature:g} is for --soft-loss kl: with mse it would only rescale "
                "alpha. Leave it out, or add --soft-loss kl"
            )
        return self

    def _check_method(self) -> None:
        chosen = self.method or "logits"
        for name, method in METHOD_ONLY.items():
            if getattr(self, name) is not None and chosen != method:
                raise ValueError(f"{flag(name)} is for --method {method}, not {chosen}: leave it out")
        if chosen != "logits" and len(self.teacher) != 1:
            raise ValueError(
                f"--method {self.method} matches the layers of one teacher, and {len(self.teacher)} are "
                "given: give --teacher RUN_OR_MODEL once, or --method logits"
            )
        if chosen != "logits" and self.teacher_file:
            raise ValueError(
                f"--method {self.method} matches the layers of a teacher, and --teacher-file "
                f"{self.teacher_file[0]} has none: leave it out, or use --method logits"
            )

    def _check_teachers(self) -> None:
        if repeated := [name for name in self.teacher if self.teacher.count(name) > 1]:
            raise ValueError(
                f"--teacher {repeated[0]} is given twice: leave one out, or use --teacher-weight"
            )
        teachers = len(self.teacher) + len(self.teacher_file)
        if self.teacher_weight and len(self.teacher_weight) != teachers:
            then = ", then for each --teacher-file" if self.teacher_file else ""
            raise ValueError(
                f"--teacher-weight: {len(self.teacher_weight)} given for {teachers} teachers; "
                f"give one for each --teacher{then}, in their order"
            )
        if unfit := [weight for weight in self.teacher_weight if weight <= 0]:
            raise ValueError(f"--teacher-weight {unfit[0]:g} is not above 0: leave that teacher out")
        if not teachers and self.runs_teacher:
            constant = "--alpha 1 for" if self.alpha < 1 else "no --alpha-end for"
            raise ValueError(
                f"alpha {min(self.alphas):g} needs a teacher: give --teacher RUN_OR_MODEL or --teacher-file "
                f"FILE, or {constant} labels only"
            )

    def loss_defaults(self) -> dict[str, object]:
        """Return what the loss options that are `None` stand for.

        With a teacher file, `choose_soft_loss` says it of the soft loss, once the file is read.
        """
        defaults = {"method": "logits"} | METHOD_DEFAULTS.get(self.method or "logits", {})
        return defaults | ({} if self.reads_teacher_files else self.soft_loss_defaults(has_logits=True))

    def soft_loss_defaults(self, *, has_logits: bool) -> dict[str, object]:
        """Return what soft loss and temperature stand for where they are `None`."""
        soft_loss = self.soft_loss or ("mse" if has_logits else "kl")
        temperature = KL_TEMPERATURE if has_logits else PROBABILITY_TEMPERATURE
        return {"soft_loss": soft_loss} | ({"temperature": temperature} if soft_loss == "kl" else {})


def choose_soft_loss(config: AnyLoss, *, has_logits: bool) -> AnyLoss:
    """Return `config` with the soft loss for teachers that all have logits, or for probabilities."""
    defaults = config.soft_loss_defaults(has_logits=has_logits)
    return replace_values(
        config, **{name: value for name, value in defaults.items() if getattr(config, name) is None}
    )
