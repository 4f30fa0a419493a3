"""What a run's files hold: `EpochRecord`, `RunMetrics`, `Environment`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """What a JSON file or a line of one holds.

    Unknown keys are ignored, so that the runs of other versions load.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document, keys in the order of the fields; fields that were never set stay out."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class EpochRecord(Record):
    """A finished epoch, a line of `history.jsonl`.

    Losses are means over the epoch's rows; a part that alpha leaves out is `None`. `stage` is set where a run
    has two: first the layers are trained, then the logits.
    """

    stage: Literal["layers", "logits"] | None = None
    epoch: int
    step: int
    learning_rate: float
    loss: float
    hard_loss: float | None
    soft_loss: float | None
    validation: dict[str, float]
    improved: bool
    examples_per_second: float
    seconds: float
    layer_loss: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the line as JSON: every key, but `stage` only where it is set."""
        return self.model_dump(exclude={"stage"} if self.stage is None else None)


class TrainingIdentity(Record):
    """What a training must be made of to be the same: options, data, models and loss."""

    config: dict[str, Any]
    dataset: dict[str, str]
    facts: dict[str, Any]
    loss: str


class TrainingMachine(Record):
    """What may change the last bits of a training."""

    versions: dict[str, str | None]
    threads: int
    device: str


class CheckpointState(Record):
    """The content of a checkpoint's `state.json`: all but tensors.

    Attributes:
        stage: what is trained, the model's layers or its logits.
        epoch: that of the next step, of which `steps`, `rows` and `seconds` are done.
        unmeasured: losses that are not computed.
        learner: what the learner has beside tensors.
        best_key: names the weights in `best.safetensors`, or is empty where there are none.
        padding_matters: whether padding changes what the model answers; `None` before that is checked.
        total_seconds: of the whole run up to here.
    """

    version: Literal[1] = 1
    identity: TrainingIdentity
    machine: TrainingMachine
    stage: Literal["layers", "logits"]
    epoch: int
    steps: int
    rows: int
    seconds: float
    unmeasured: list[str]
    learner: dict[str, Any]
    history: list[EpochRecord]
    best_key: str
    padding_matters: bool | None
    start: str
    total_seconds: float


class CalibrationFacts(Record):
    """A temperature that divides the logits, and what it changes on the validation split."""

    temperature: float
    ece_before: float
    ece: float
    loss_before: float
    loss: float


class RunMetrics(Record):
    """The content of `metrics.json`.

    `calibration` is `None` where no temperature fits, and not set in a run that does not calibrate.
    """

    best_epoch: int
    metric: str
    validation: dict[str, float]
    parameters: int
    parameters_without_embeddings: int
    bytes: int
    seconds: float
    calibration: CalibrationFacts | None = None


class DatasetFacts(Record):
    """The data a run was trained on: rows and SHA-256 of its contents, by split."""

    name: str
    rows: dict[str, int]
    fingerprint: dict[str, str]
    notes: list[str] = []


class ModelFacts(Record):
    """The model that `train` fine-tuned."""

    name: str
    origin: str


class StudentFacts(Record):
    """The student's architecture, and in words where its weights come from."""

    class_name: str = Field(alias="class")
    origin: str


class TeacherFacts(Record):
    """A teacher, and its share of the mean of all teachers' logits."""

    name: str
    fingerprint: str
    share: float


class PrecisionFacts(Record):
    """Milliseconds that a part of the model took on this CPU, which decided about `--precision auto`."""

    fp32_ms: float
    bf16_ms: float


class Environment(Record):
    """The content of `environment.json`: what a run was made of and where.

    `train` sets `model`; `distill` sets `student`, and `teachers` and `matched_layers` where it uses them.
    `lstm_precision` is set where cuDNN computes an LSTM, in another format than `precision` says of the rest.
    """

    command: str
    command_line: list[str]
    versions: dict[str, str | None]
    platform: str
    git_commit: str | None
    device: str
    threads: int
    trained_together: int = 1
    precision: str
    lstm_precision: str | None = None
    precision_measured: PrecisionFacts | None = None
    seed: int
    loss: str
    dataset: DatasetFacts
    model: ModelFacts | None = None
    student: StudentFacts | None = None
    teachers: list[TeacherFacts] = []
    matched_layers: list[int] = []
    start: str
    end: str
