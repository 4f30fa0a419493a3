"""Options of `fit`: limits on cost and quality, and the students that are tried against them."""

import re
from collections.abc import Iterator

from pydantic import model_validator

from distilkit.config.data import DEVICE_HELP, DataConfig, Device, Precision
from distilkit.config.fields import AnyPath, ModelName, Strings, option

LAYERS = "layers"  # stands for students made of layers of the teacher
CANDIDATES = ("static", "bilstm", LAYERS)
LAYERS_PATTERN = re.compile(rf"{LAYERS}:([1-9]\d*)")


class BudgetConfig(DataConfig):
    """Find the cheapest student that meets limits on latency, size and quality."""

    output_dir: AnyPath = option(
        panel="Output",
        short="-o",
        basic=True,
        help="Folder of the runs, the exported models and the page. The same command goes on with it.",
    )
    teacher: ModelName | None = option(
        None,
        panel="Model",
        short="-t",
        basic=True,
        help="Run folder, model folder or Hub id. (default: --model is fine-tuned first)",
    )
    model: ModelName | None = option(
        None,
        panel="Model",
        short="-m",
        basic=True,
        help="Encoder to fine-tune as the teacher, where there is none yet. (default: that of train)",
    )
    student: Strings = option(
        CANDIDATES,
        panel="Model",
        basic=True,
        suggestions=CANDIDATES,
        help="Student to try, repeatable: static, bilstm, layers:N for N layers of the teacher, layers for a "
        "sixth, a third and a half of them.",
    )
    max_latency_ms: float | None = option(
        None,
        gt=0,
        panel="Limits",
        basic=True,
        help="Milliseconds that a single row may take on this CPU, median. (default: any)",
    )
    max_mb: float | None = option(
        None, gt=0, panel="Limits", basic=True, help="Megabytes that the graph may have. (default: any)"
    )
    min_kept: float = option(
        0.97,
        gt=0,
        le=1,
        panel="Limits",
        basic=True,
        help="Share of the teacher's validation accuracy that the student must keep.",
    )
    try_all: bool = option(
        False, panel="Limits", help="Try every student, and do not stop at the first that meets the limits."
    )
    test: bool = option(
        False, panel="Output", help="Also score the student on the test split, once it is chosen."
    )
    alpha: float | None = option(
        None,
        ge=0,
        le=1,
        panel="Training",
        short="-a",
        help="Weight of the labels in the students' loss. (default: 0, as --recipe auto)",
    )
    epochs: int | None = option(
        None, ge=1, panel="Training", short="-e", help="Passes of each student. (default: --recipe auto)"
    )
    transfer: Strings = option(
        (),
        panel="Data",
        help="Text without labels for the teacher to label, repeatable, as in distill. (default: --recipe "
        "auto)",
    )
    max_train_samples: int | None = option(
        None, ge=1, panel="Data", help="Train on a stratified sample of N rows."
    )
    precision: Precision = option("auto", panel="Training", help="Number format of training, as in train.")
    device: Device = option(None, panel="Training", help=DEVICE_HELP)
    seed: int = option(42, ge=0, lt=2**32, panel="Training", short="-s", help="Random seed.")
    threads: int | None = option(
        None, ge=1, panel="Speed", help="Cores that may compute a row. (default: those that torch takes)"
    )

    @model_validator(mode="after")
    def _check_budget(self) -> "BudgetConfig":
        if self.teacher and self.model:
            raise ValueError(
                f"--model {self.model} would be fine-tuned as the teacher, and --teacher {self.teacher} is "
                "one: leave one out"
            )
        if not self.student:
            raise ValueError(f"there is no student to try: give --student {' or '.join(CANDIDATES)}")
        for name in self.student:
            if name not in CANDIDATES and not LAYERS_PATTERN.fullmatch(name):
                raise ValueError(
                    f"--student {name} is none that fit tries: give {', '.join(CANDIDATES)} or {LAYERS}:N. "
                    "For any other, use distill"
                )
        return self

    def list_students(self, teacher_layers: int | None) -> Iterator[tuple[str, int | None]]:
        """Yield the students to try, once each: the name, and of the teacher's layers how many.

        Args:
            teacher_layers: `None` where the teacher has no layers to take; none are tried then.
        """
        listed: dict[tuple[str, int | None], None] = {}
        for name in self.student:
            if name == LAYERS:
                shares = () if teacher_layers is None else (6, 3, 2)
                counts = [max(1, -(-(teacher_layers or 0) // share)) for share in shares]
                listed |= {(LAYERS, count): None for count in counts}
            elif match := LAYERS_PATTERN.fullmatch(name):
                listed[LAYERS, int(match[1])] = None
            else:
                listed[name, None] = None
        yield from listed
