"""What `distill` is told, and `doctor` with it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from distilkit.config.fields import Floats, Strings, field_infos, flag, frozen, option
from distilkit.config.fitting import FitConfig

Init = Literal["pretrained", "teacher", "random"]
Method = Literal["logits", "tinybert", "pkd", "general"]
Pooling = Literal["last", "max", "both"]
Recipe = Literal["auto"]
SoftLoss = Literal["mse", "kl"]
Vocabulary = Literal["words", "teacher"]


@frozen
class DistillConfig(FitConfig):
    """Distill a teacher into a student: loss = alpha * CE(labels) + (1 - alpha) * MSE(teacher's logits)."""

    recipe: Recipe | None = option(
        None,
        panel="Model",
        short="-r",
        help="auto: choose what is not given (text to distill on, start, method, epochs) by data, teacher "
        "and device, and say why. Alpha is then 0 unless given.",
    )
    transfer: Strings = option(
        (),
        panel="Data",
        help="Text without labels for the teacher to label, repeatable: .txt (a row a line), .parquet, .csv, "
        ".tsv, .jsonl, or `unsupervised`, that split of the dataset.",
    )
    transfer_ratio: float | None = option(
        None,
        gt=0,
        panel="Data",
        help="Rows of --transfer per training row in an epoch, others each time. (default: all of them)",
    )
    teacher: Strings = option(
        (),
        panel="Model",
        short="-t",
        help="Run folder, model folder or Hub id; repeat it for the mean of several. Not needed for alpha 1.",
    )
    teacher_weight: Floats = option(
        (), panel="Model", help="Of each --teacher in the mean, in their order. (default: equal)"
    )
    student: str = option(
        "bilstm", panel="Model", help="bilstm, tinybert, distilbert, or any Hub id or folder of an encoder."
    )
    alpha: float = option(
        0.5,
        ge=0,
        le=1,
        panel="Loss",
        short="-a",
        help="Weight of the hard loss. 1: labels only, no teacher runs. 0: teacher only, no label in it.",
    )
    alpha_end: float | None = option(
        None, ge=0, le=1, panel="Loss", help="Where alpha has gone by the last step. (default: it stays)"
    )
    soft_loss: SoftLoss = option(
        "mse",
        panel="Loss",
        help="What the teacher's weight is on. mse: of the raw logits. kl: of the answers at --temperature.",
    )
    temperature: float | None = option(
        None,
        gt=0,
        panel="Loss",
        help="kl: softens both answers, and the term is multiplied by its square. (default: 2)",
    )
    calibrate: bool = option(
        True,
        panel="Training",
        help="Fit a temperature on the validation split at the end and store it in the student's weights.",
    )
    init: Init | None = option(
        None,
        panel="Model",
        help="pretrained: Hub weights. teacher: its layers or word-piece embeddings. random: sizes only. "
        "(default: pretrained; bilstm: teacher with its vocabulary, else random; general: random)",
    )
    layers: int | None = option(
        None,
        ge=1,
        panel="Model",
        help="Layers of the student. (default: bilstm 1, tinybert 4, distilbert 6, any other its own)",
    )
    hidden_size: int | None = option(
        None,
        ge=1,
        panel="Model",
        help="Width of the student. (default: bilstm 150, 300 for pairs; else its own or the teacher's)",
    )
    vocabulary: Vocabulary | None = option(
        None,
        panel="BiLSTM",
        help="Words of the training text, or the teacher's word-pieces and their vectors. "
        "(default: teacher, without one words)",
    )
    vocabulary_size: int | None = option(
        None, ge=3, panel="BiLSTM", help="Most frequent words kept. (default: 20000)"
    )
    embedding_size: int | None = option(
        None,
        ge=1,
        panel="BiLSTM",
        help="Width of the word vectors; fewer than the teacher's are its principal components. "
        "(default: 300, or the teacher's)",
    )
    dropout: float | None = option(
        None, ge=0, lt=1, panel="BiLSTM", help="Share of values left out in training. (default: 0.1)"
    )
    pooling: Pooling | None = option(
        None,
        panel="BiLSTM",
        help="Of its states: the last, their maximum over the tokens, or both. (default: both)",
    )
    word_dropout: float | None = option(
        None,
        ge=0,
        lt=1,
        panel="BiLSTM",
        help="Share of a text's words that training hides from it. (default: 0)",
    )
    method: Method | None = option(
        None,
        panel="Loss",
        help="tinybert: a stage before that matches layers; alpha is then 0 unless given. pkd: also matches "
        "[CLS] of the layers between. general: layers alone, on --corpus. (default: logits)",
    )
    corpus: Strings = option(
        (),
        panel="Data",
        help="general: raw text to match layers on, repeatable: .txt (a paragraph a line) or `wikitext-103`.",
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

    @model_validator(mode="before")
    @classmethod
    def _soft_alone(cls, given: Any) -> Any:
        """TinyBERT's second stage reads no labels (Jiao et al. 2020, equation 10), nor does the recipe."""
        if given.kwargs.get("method") in ("tinybert", "general") or given.kwargs.get("recipe") == "auto":
            given.kwargs.setdefault("alpha", 0.0)
        return given

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

    @property
    def data_name(self) -> str:
        """As `DataConfig`; without a dataset, the name of the first transfer file or corpus."""
        return super().data_name if self.has_dataset else Path((*self.transfer, *self.corpus)[0]).stem

    @property
    def alphas(self) -> tuple[float, float]:
        """The weight of the hard loss at the first step and at the last."""
        return self.alpha, self.alpha if self.alpha_end is None else self.alpha_end

    @property
    def reads_labels(self) -> bool:
        """Whether training labels are ever weighed."""
        return max(self.alphas) > 0

    @property
    def runs_teacher(self) -> bool:
        """Whether teacher logits are ever weighed."""
        return min(self.alphas) < 1

    @model_validator(mode="after")
    def _fits_together(self) -> "DistillConfig":
        self._check_method()
        if twice := [name for name in self.transfer if self.transfer.count(name) > 1]:
            raise ValueError(f"--transfer {twice[0]} is given twice: leave one out")
        if self.transfer and not self.runs_teacher:
            raise ValueError("--transfer has no labels, so alpha 1 learns nothing from it: lower --alpha")
        text = self.transfer or self.recipe
        if self.transfer_ratio is not None and not (text and self.has_dataset):
            raise ValueError(
                f"--transfer-ratio {self.transfer_ratio:g} is rows of --transfer per training row: "
                "give --transfer and a dataset, or leave it out"
            )
        if twice := [name for name in self.teacher if self.teacher.count(name) > 1]:
            raise ValueError(f"--teacher {twice[0]} is given twice: leave one out, or use --teacher-weight")
        if self.teacher_weight and len(self.teacher_weight) != len(self.teacher):
            raise ValueError(
                f"--teacher-weight: {len(self.teacher_weight)} given for {len(self.teacher)} teachers; "
                "give one for each --teacher, in their order"
            )
        if unfit := [weight for weight in self.teacher_weight if weight <= 0]:
            raise ValueError(f"--teacher-weight {unfit[0]:g} is not above 0: leave that teacher out")
        if not self.teacher and self.runs_teacher:
            constant = "--alpha 1 for" if self.alpha < 1 else "no --alpha-end for"
            raise ValueError(
                f"alpha {min(self.alphas):g} needs a teacher: give --teacher RUN_OR_MODEL, or {constant} "
                "labels only"
            )
        if self.temperature is not None and self.soft_loss != "kl":
            raise ValueError(
                f"--temperature {self.temperature:g} is for --soft-loss kl: with {self.soft_loss} it would "
                "only rescale alpha. Leave it out, or add --soft-loss kl"
            )
        if self.recipe and not self.teacher:
            raise ValueError(
                f"--recipe {self.recipe} makes the most of a teacher: give --teacher RUN_OR_MODEL"
            )
        if not self.teacher and self.init == "teacher":
            raise ValueError("--init teacher needs a teacher: give --teacher RUN_OR_MODEL")
        if self.student == "bilstm":
            self._check_bilstm()
        else:
            for name in BILSTM_ONLY:
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{flag(name)} is for --student bilstm, not {self.student}: leave it out"
                    )
            random = self.init == "random" or (self.init is None and self.method == "general")
            if self.hidden_size is not None and not random:
                raise ValueError(
                    f"--hidden-size {self.hidden_size} only shapes a random student: "
                    "add --init random or leave it out"
                )
        return self

    def _check_method(self) -> None:
        chosen = self.method or "logits"
        for name, method in METHOD_ONLY.items():
            if getattr(self, name) is not None and chosen != method:
                raise ValueError(f"{flag(name)} is for --method {method}, not {chosen}: leave it out")
        if self.corpus and chosen != "general":
            raise ValueError(f"--corpus {self.corpus[0]} is for --method general: leave it out, or add that")
        if chosen == "logits":
            return
        if self.student == "bilstm":
            raise ValueError(
                f"--method {self.method} matches layers of encoders, and a bilstm has none: "
                "give --student tinybert, distilbert or a folder, or --method logits"
            )
        if len(self.teacher) != 1:
            raise ValueError(
                f"--method {self.method} matches the layers of one teacher, and {len(self.teacher)} are "
                "given: give --teacher RUN_OR_MODEL once, or --method logits"
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
        if twice := [name for name in self.corpus if self.corpus.count(name) > 1]:
            raise ValueError(f"--corpus {twice[0]} is given twice: leave one out")
        if self.alpha > 0:
            raise ValueError(f"--alpha {self.alpha:g}: --method general reads no labels; leave it out")
        for name in NOT_GENERAL:
            if getattr(self, name) != field_infos(DistillConfig)[name].default:
                raise ValueError(
                    f"{flag(name)} means nothing to --method general, which matches layers on --corpus: "
                    "leave it out"
                )

    @property
    def reads_words(self) -> bool:
        """Whether a BiLSTM has words of its own: asked for, or there are no vectors of a teacher to take."""
        if self.vocabulary is not None:
            return self.vocabulary == "words"
        return not self.teacher or self.init == "random" or self.vocabulary_size is not None

    def _check_bilstm(self) -> None:
        from_teacher = self.vocabulary == "teacher"
        if self.init == "pretrained":
            raise ValueError("--init pretrained: there is no pretrained bilstm; use --init teacher or random")
        if self.init == "teacher" and self.reads_words:
            raise ValueError(
                "--init teacher gives a bilstm the teacher's embeddings: give --vocabulary teacher with it"
            )
        if from_teacher and not self.teacher:
            raise ValueError("--vocabulary teacher needs a teacher: give --teacher RUN_OR_MODEL")
        if from_teacher and self.vocabulary_size is not None:
            raise ValueError("--vocabulary-size goes with --vocabulary words: the teacher's is taken whole")

    @classmethod
    def default_texts(cls) -> dict[str, str]:
        """As `FitConfig`."""
        return {
            name: f"bilstm {value:g}, else {ENCODER_DEFAULTS[name]:g}"
            for name, value in BILSTM_DEFAULTS.items()
        }

    def dependent_defaults(self) -> dict[str, Any]:
        """As `TextsConfig`."""
        found = super().dependent_defaults() | {"method": "logits"}
        found |= self._bilstm_defaults() if self.student == "bilstm" else self._encoder_defaults()
        found |= METHOD_DEFAULTS.get(self.method or "logits", {})
        if self.soft_loss == "kl":
            # DistilBERT's. The higher it is, the more KL is MSE again, with another scale (Hinton et al.,
            # section 2.1).
            found |= {"temperature": 2.0}
        return found

    def _bilstm_defaults(self) -> dict[str, Any]:
        words = self.reads_words
        found = BILSTM_DEFAULTS | {
            "vocabulary": "words" if words else "teacher",
            "init": "random" if words else "teacher",
            "layers": OWN_LAYERS["bilstm"],
            "hidden_size": 300 if self.is_pair else 150,
            "dropout": 0.1,
            "pooling": "both",
            "word_dropout": 0.0,
        }
        if words:
            found |= {"vocabulary_size": 20_000}
        if words or self.init == "random":
            found |= {"embedding_size": 300}
        return found

    def _encoder_defaults(self) -> dict[str, Any]:
        # A general student of weights that are one already would be no use.
        init = "random" if self.method == "general" else "pretrained"
        return ENCODER_DEFAULTS | {"init": init, "layers": OWN_LAYERS.get(self.student)}


# What `epochs`, `batch_size` and `learning_rate` are when they are not given.
BILSTM_DEFAULTS: dict[str, Any] = {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3}
ENCODER_DEFAULTS: dict[str, Any] = {"epochs": 5, "batch_size": 32, "learning_rate": 1e-4}
BILSTM_ONLY = ("vocabulary", "vocabulary_size", "embedding_size", "dropout", "pooling", "word_dropout")
# Jiao et al. 2020, section 4.2 (10 to 20 epochs). Of the grid of Sun et al. 2019 for beta, 10 to 1000, 100
# adds 0.13 times the squared distance of the directions at BERT's width: of the order of the other terms.
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "tinybert": {"layer_epochs": 10, "layer_learning_rate": 5e-5},
    "pkd": {"beta": 100.0},
}
# What reads labels, logits or a dataset.
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
    "alpha_end",
    "soft_loss",
    "temperature",
    "calibrate",
)
METHOD_ONLY = {name: method for method, defaults in METHOD_DEFAULTS.items() for name in defaults}
OWN_LAYERS = {"bilstm": 1, "tinybert": 4, "distilbert": 6}


@frozen
class DoctorConfig(DistillConfig):
    """Look for what would make a distillation worthless. It is told what `distill` would be told."""

    output_dir: Path = option(
        Path(),
        panel="Output",
        short="-o",
        help="Nothing is written there: it is taken so that a `distill` command can be checked as it is.",
    )
