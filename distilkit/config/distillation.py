"""Options of `distill`, composed of groups, and of `doctor`, which takes the same."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from distilkit.config.fields import AnyPath, field_infos, flag, option
from distilkit.config.fitting import FitConfig
from distilkit.config.loss import LossConfig
from distilkit.config.student import (
    BILSTM_DEFAULTS,
    ENCODER_DEFAULTS,
    STATIC_DEFAULTS,
    StudentConfig,
)
from distilkit.config.transfer import TransferConfig

Recipe = Literal["auto"]
# What reads labels, logits or a dataset, and so means nothing to `--method general`.
NOT_GENERAL = (
    "recipe",
    "dataset",
    "data_dir",
    "text_column",
    "text_pair_column",
    "label_column",
    "max_train_samples",
    "max_eval_samples",
    "transfer",
    "transfer_ratio",
    "teacher_weight",
    "teacher_file",
    "targets",
    "missing",
    "alpha_end",
    "soft_loss",
    "temperature",
    "metric",
    "class_weights",
    "calibrate",
)


# Pydantic orders fields from the last base to the first: data, fitting, loss, student, transfer.
class DistillConfig(TransferConfig, StudentConfig, LossConfig, FitConfig):
    """Distill a teacher into a student: loss = alpha * CE(labels) + (1 - alpha) * MSE(teacher's logits)."""

    recipe: Recipe | None = option(
        None,
        panel="Model",
        short="-r",
        basic=True,
        help="auto: choose what is not given (text to distill on, start, method, epochs) by data, teacher "
        "and device, and say why. Alpha is then 0 unless given.",
    )
    calibrate: bool = option(
        True,
        panel="Output",
        help="Fit a temperature on the validation split at the end and store it in the student's weights.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_to_soft_loss_alone(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Set alpha to 0 for TinyBERT's second stage (Jiao et al. 2020, equation 10) and for the recipe."""
        if values.get("method") in ("tinybert", "general") or values.get("recipe") == "auto":
            return {"alpha": 0.0} | values
        return values

    def _check_without_dataset(self) -> None:
        if self.method == "general":
            return
        if not self.transfer:
            super()._check_without_dataset()
        if self.reads_labels:
            raise ValueError(
                f"alpha {max(self.alphas):g} reads labels, and --transfer has none: "
                "give --dataset or --data-dir, or --alpha 0 for the teacher alone"
            )

    @model_validator(mode="after")
    def _check_groups(self) -> "DistillConfig":
        """Refuse what the groups allow alone but not together."""
        self._check_layer_matching()
        if self.class_weights and not self.reads_labels and self.method != "general":
            raise ValueError(
                f"--class-weights {self.class_weights[0]} weighs labels, and alpha 0 reads none: "
                "raise --alpha, or leave it out"
            )
        if self.transfer and not self.runs_teacher:
            raise ValueError("--transfer has no labels, so alpha 1 learns nothing from it: lower --alpha")
        if self.transfer_ratio is not None and not ((self.transfer or self.recipe) and self.has_dataset):
            raise ValueError(
                f"--transfer-ratio {self.transfer_ratio:g} is rows of --transfer per training row: "
                "give --transfer and a dataset, or leave it out"
            )
        if not self.teacher:
            self._check_without_model()
        if self.has_word_vectors and self.init == "teacher" and self.reads_words:
            raise ValueError(
                f"--init teacher gives a {self.student} the teacher's embeddings: "
                "give --vocabulary teacher with it"
            )
        is_random = self.init == "random" or (self.init is None and self.method == "general")
        if not self.has_word_vectors and self.hidden_size is not None and not is_random:
            raise ValueError(
                f"--hidden-size {self.hidden_size} only shapes a random student: "
                "add --init random or leave it out"
            )
        return self

    def _check_without_model(self) -> None:
        if self.recipe and not self.teacher_file:
            raise ValueError(
                f"--recipe {self.recipe} makes the most of a teacher: give --teacher RUN_OR_MODEL"
            )
        if self.init == "teacher":
            raise ValueError("--init teacher needs a teacher: give --teacher RUN_OR_MODEL")
        if self.vocabulary == "teacher":
            raise ValueError("--vocabulary teacher needs a teacher: give --teacher RUN_OR_MODEL")

    def _check_layer_matching(self) -> None:
        if self.corpus and self.method != "general":
            raise ValueError(f"--corpus {self.corpus[0]} is for --method general: leave it out, or add that")
        if self.method in (None, "logits"):
            return
        if self.has_word_vectors:
            raise ValueError(
                f"--method {self.method} matches layers of encoders, and a {self.student} has none: "
                "give --student tinybert, distilbert or a folder, or --method logits"
            )
        if self.method == "general":
            self._check_general()
        if self.method == "pkd" and self.layers == 1:
            raise ValueError(
                "--method pkd leaves the last layer to the logits, so it needs --layers 2 or more: "
                "use --method tinybert or logits for one"
            )

    def _check_general(self) -> None:
        if not self.corpus:
            raise ValueError("--method general reads raw text: give --corpus FILE.txt or wikitext-103")
        if self.alpha > 0:
            raise ValueError(f"--alpha {self.alpha:g}: --method general reads no labels; leave it out")
        for name in NOT_GENERAL:
            default = field_infos(DistillConfig)[name].default
            resolved = "mse" if name == "soft_loss" else default  # what a saved config has for it
            if getattr(self, name) not in (default, resolved):
                raise ValueError(
                    f"{flag(name)} means nothing to --method general, which matches layers on --corpus: "
                    "leave it out"
                )

    @property
    def data_name(self) -> str:
        """Return the dataset's name; without one, that of the first transfer file or corpus."""
        return super().data_name if self.has_dataset else Path((*self.transfer, *self.corpus)[0]).stem

    @property
    def reads_words(self) -> bool:
        """Return whether word vectors are of the data's words: asked for, or without a teacher's to take."""
        if self.vocabulary is not None:
            return self.vocabulary == "words"
        return not self.teacher or self.init == "random" or self.vocabulary_size is not None

    @classmethod
    def default_texts(cls) -> dict[str, str]:
        """Return the defaults that depend on the student, in words for `--help`."""
        students = {"bilstm": BILSTM_DEFAULTS, "static": STATIC_DEFAULTS, "else": ENCODER_DEFAULTS}
        return {
            name: ", ".join(f"{student} {defaults[name]:g}" for student, defaults in students.items())
            for name in BILSTM_DEFAULTS
        }

    def dependent_defaults(self) -> dict[str, Any]:
        """Return what the options that are `None` stand for, given the others."""
        if self.has_word_vectors:
            student = self.word_student_defaults(reads_words=self.reads_words, is_pair=self.is_pair)
        else:
            student = self.encoder_defaults(is_general=self.method == "general")
        return super().dependent_defaults() | student | self.loss_defaults()


class DoctorConfig(DistillConfig):
    """Look for what would make a distillation worthless. It takes the options of `distill`.

    Without a teacher, which is trained only after the data are checked, alpha is 1.
    """

    output_dir: AnyPath = option(
        Path(),
        panel="Output",
        short="-o",
        help="Nothing is written there: it is taken so that a `distill` command can be checked as it is.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_to_data_alone(cls, values: dict[str, Any]) -> dict[str, Any]:
        has_reason = any(values.get(name) for name in ("teacher", "teacher_file", "recipe", "method"))
        return values if has_reason else {"alpha": 1.0} | values
