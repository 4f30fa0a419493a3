"""Options on training, which `train` and `distill` share."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from distilkit.config.data import DEVICE_HELP, DataConfig, Device, Precision
from distilkit.config.fields import AnyPath, Strings, flag, option

Metric = Literal["accuracy", "f1", "f1_macro", "mcc", "loss"]
# Names of models and splits that are no paths, whatever files there are.
NO_PATHS = frozenset(("bilstm", "static", "tinybert", "distilbert", "minilm", "unsupervised"))
RESUME_FIELDS = ("checkpoint_every", "resume")  # they change no result
HARDWARE_FIELDS = ("device", "precision")  # shared by students that are distilled together
BALANCED = "balanced"
FIT_DEFAULTS = {"epochs": 3, "batch_size": 32, "learning_rate": 5e-5}
EVERY = re.compile(r"(?P<steps>[1-9]\d*)|(?P<minutes>\d*[1-9]\d*|\d+\.\d*[1-9]\d*)m")


def _check_interval(value: Any) -> Any:
    """Return steps or minutes as the text that a person types."""
    if value is None:
        return None
    text = str(value).strip()
    if not EVERY.fullmatch(text):
        raise ValueError("write it as 500 for steps, or as 10m for minutes")
    return text


Interval = Annotated[str | None, BeforeValidator(_check_interval)]


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


class FitConfig(DataConfig):
    """How a model is trained; shared by `train` and `distill`."""

    output_dir: AnyPath = option(panel="Output", short="-o", basic=True, help="Folder that receives the run.")
    overwrite: bool = option(
        False,
        panel="Output",
        basic=True,
        help="Replace a run that is already in --output-dir, once the new one is complete.",
    )
    checkpoint_every: Interval = option(
        None,
        panel="Output",
        help="Save the state of the training beside --output-dir every N steps (500) or minutes (10m), and "
        "when a signal ends the command. (default: no checkpoints)",
    )
    resume: bool = option(
        False,
        panel="Output",
        help="Go on at the last checkpoint of the same command, to the same weights.",
    )
    max_train_samples: int | None = option(
        None,
        ge=1,
        panel="Data",
        help="Train on a stratified sample of N rows, the same for every seed.",
    )
    class_weights: Strings = option(
        (),
        panel="Data",
        suggestions=(BALANCED,),
        help="What a row counts in the loss against labels. balanced: every class as much as any other. Or "
        "NAME=WEIGHT, repeatable. (default: every row alike)",
    )
    epochs: int | None = option(
        None,
        ge=1,
        panel="Training",
        short="-e",
        basic=True,
        help="Passes over the training split. (default: {epochs})",
    )
    batch_size: int | None = option(
        None,
        ge=1,
        panel="Training",
        short="-b",
        basic=True,
        help="Rows per forward pass. (default: {batch_size})",
    )
    gradient_accumulation_steps: int = option(
        1, ge=1, panel="Training", help="Forward passes per optimizer step: 8 x 4 steps like 32 x 1."
    )
    learning_rate: float | None = option(
        None,
        gt=0,
        panel="Training",
        basic=True,
        help="Peak of the linear schedule. (default: {learning_rate})",
    )
    warmup_ratio: float = option(0.1, ge=0, le=1, panel="Training", help="Share of the steps that warms up.")
    weight_decay: float = option(0.01, ge=0, panel="Training", help="AdamW's, on weight matrices only.")
    max_grad_norm: float = option(1.0, gt=0, panel="Training", help="Gradients are clipped to this norm.")
    metric: Metric | None = option(
        None,
        panel="Training",
        help="Validation metric that picks the best epoch: accuracy, f1 (two classes, of the second), "
        "f1_macro, mcc or loss. Ties go to the lower validation loss, then to the earlier epoch. "
        "(default: the dataset's; f1 for mrpc, else accuracy)",
    )
    patience: int | None = option(
        None, ge=1, panel="Training", help="Stop after N epochs without a better one, by --metric."
    )
    precision: Precision = option(
        "auto",
        panel="Training",
        help="Number format of forward passes. auto: on a CPU the faster of bf16 and fp32, measured once; "
        "on CUDA bf16, or fp16 where the GPU lacks it.",
    )
    device: Device = option(None, panel="Training", help=DEVICE_HELP)
    seed: int = option(
        42,
        ge=0,
        lt=2**32,
        panel="Training",
        short="-s",
        help="Random seed (weights, data order, dropout).",
    )

    @model_validator(mode="after")
    def _check_class_weights(self) -> "FitConfig":
        if self.class_weights == (BALANCED,):
            return self
        for text in self.class_weights:
            name, _, weight = text.rpartition("=")
            if not name or not _is_positive(weight):
                raise ValueError(
                    f"--class-weights {text}: write {BALANCED}, or NAME=WEIGHT with a weight above 0, "
                    "such as spam=5"
                )
        names = [text.rpartition("=")[0] for text in self.class_weights]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"--class-weights names {repeated[0]} twice: leave one out")
        return self

    @classmethod
    def default_texts(cls) -> dict[str, str]:
        """Return the defaults that depend on other options, in words for `--help`, by field."""
        return {name: f"{value:g}" for name, value in FIT_DEFAULTS.items()}

    @property
    def input_paths(self) -> dict[str, tuple[Path, ...]]:
        """Return what the options name to be read, by flag: files, folders, and Hub ids as if they were."""
        paths = {}
        for name in ("model", "teacher", "teacher_file", "student", "data_dir", "transfer", "corpus"):
            value = getattr(self, name, None) or ()
            values = (value,) if isinstance(value, str | Path) else value
            paths[flag(name)] = tuple(Path(text) for text in values if text not in NO_PATHS)
        return paths

    @property
    def checkpoint_steps(self) -> int | None:
        """Return after how many optimizer steps a checkpoint is due, `None` where it is not by steps."""
        match = EVERY.fullmatch(self.checkpoint_every or "")
        return int(match["steps"]) if match and match["steps"] else None

    @property
    def checkpoint_seconds(self) -> float | None:
        """Return after how many seconds a checkpoint is due, `None` where it is not by time."""
        match = EVERY.fullmatch(self.checkpoint_every or "")
        return 60 * float(match["minutes"]) if match and match["minutes"] else None

    def dependent_defaults(self) -> dict[str, Any]:
        """Return what the options that are `None` stand for, given the others."""
        return FIT_DEFAULTS | {"max_length": 256 if self.dataset == "imdb" else 128}
