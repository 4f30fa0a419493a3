"""What each command can be told: a config class for each.

A field that is `None` has a default that depends on other fields; `resolve` fills it in. A field that means
nothing for the chosen student is refused when set, so that no option is silently without effect.
"""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import model_validator

from distilkit.fields import Floats, Strings, changed, field_infos, flag, frozen, option, positional

Candidates = Literal["mlm", "embeddings", "both"]
Dataset = Literal["sst2", "mrpc", "imdb", "rotten_tomatoes"]
Init = Literal["pretrained", "teacher", "random"]
Method = Literal["logits", "tinybert", "pkd", "general"]
Pooling = Literal["last", "max", "both"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Recipe = Literal["auto"]
Rule = Literal["tang", "tinybert"]
SoftLoss = Literal["mse", "kl"]
Split = Literal["train", "validation", "test"]
Vocabulary = Literal["words", "teacher"]


@frozen
class TextsConfig:
    """Where texts come from; shared by every command that reads some."""

    dataset: Dataset | None = option(
        None,
        panel="Data",
        short="-d",
        help="Known dataset: its columns, label names and metric. From the Hub unless --data-dir is given.",
    )
    data_dir: Path | None = option(
        None,
        panel="Data",
        help="Folder with train, validation, test as .parquet, .csv, .tsv or .jsonl.",
    )
    text_column: str | None = option(
        None, panel="Data", help="Column with the text. (default: the dataset's, else text)"
    )
    text_pair_column: str | None = option(
        None,
        panel="Data",
        help="Column with the second text of a pair. (default: the dataset's, else none)",
    )
    label_column: str | None = option(
        None, panel="Data", help="Column with the label. (default: the dataset's, else label)"
    )

    @model_validator(mode="after")
    def _has_data(self) -> "TextsConfig":
        if not self.has_dataset:
            self._check_without_dataset()
        return self

    def _check_without_dataset(self) -> None:
        raise ValueError("no data: give --dataset (sst2, mrpc, imdb, rotten_tomatoes) or --data-dir DIR")

    @property
    def has_dataset(self) -> bool:
        """Whether there is a dataset to read."""
        return self.dataset is not None or self.data_dir is not None

    @property
    def is_pair(self) -> bool:
        """Whether an example is two texts."""
        return self.text_pair_column is not None or self.dataset == "mrpc"

    @property
    def data_name(self) -> str:
        """What reports call the data: the dataset's name, else the folder's."""
        if self.dataset:
            return self.dataset
        assert self.data_dir is not None
        return self.data_dir.resolve().name


@frozen
class DataConfig(TextsConfig):
    """What a model reads of the texts, and how much of them it is evaluated on."""

    max_length: int | None = option(
        None,
        ge=4,
        panel="Data",
        help="Longest input in tokens; the rest is cut. (default: 256 for imdb, else 128)",
    )
    max_eval_samples: int | None = option(
        None,
        ge=1,
        panel="Data",
        help="Evaluate on a stratified sample of N rows, the same whatever the seed.",
    )


@frozen
class FitConfig(DataConfig):
    """How a model is trained; shared by `train` and `distill`."""

    output_dir: Path = option(panel="Output", short="-o", help="Folder that receives the run.")
    overwrite: bool = option(
        False,
        panel="Output",
        help="Replace a run that is already in --output-dir, once the new one is complete.",
    )
    max_train_samples: int | None = option(
        None,
        ge=1,
        panel="Data",
        help="Train on a stratified sample of N rows, the same whatever the seed.",
    )
    epochs: int | None = option(
        None, ge=1, panel="Training", short="-e", help="Passes over the training split. (default: {epochs})"
    )
    batch_size: int | None = option(
        None, ge=1, panel="Training", short="-b", help="Rows per forward pass. (default: {batch_size})"
    )
    gradient_accumulation_steps: int = option(
        1, ge=1, panel="Training", help="Forward passes per optimizer step: 8 x 4 steps like 32 x 1."
    )
    learning_rate: float | None = option(
        None, gt=0, panel="Training", help="Peak of the linear schedule. (default: {learning_rate})"
    )
    warmup_ratio: float = option(0.1, ge=0, le=1, panel="Training", help="Share of the steps that warms up.")
    weight_decay: float = option(0.01, ge=0, panel="Training", help="AdamW's, on weight matrices only.")
    max_grad_norm: float = option(1.0, gt=0, panel="Training", help="Gradients are clipped to this norm.")
    patience: int | None = option(
        None, ge=1, panel="Training", help="Stop after N epochs without a better validation metric."
    )
    precision: Precision = option(
        "auto",
        panel="Training",
        help="Of the forward pass. auto: bf16 where hardware is fast in it, fp16 on older CUDA, else fp32.",
    )
    seed: int = option(
        42, ge=0, lt=2**32, panel="Training", short="-s", help="Of weights, order and dropout."
    )


@frozen
class TrainConfig(FitConfig):
    """Fine-tune a teacher: any encoder that AutoModelForSequenceClassification takes."""

    model: str = option(
        "google-bert/bert-base-uncased",
        panel="Model",
        short="-m",
        help="Hub id, folder, earlier run, or `minilm` (22.7 M parameters, in the extra `demo`).",
    )


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


@frozen
class DoctorConfig(DistillConfig):
    """Look for what would make a distillation worthless. It is told what `distill` would be told."""

    output_dir: Path = option(
        Path(),
        panel="Output",
        short="-o",
        help="Nothing is written there: it is taken so that a `distill` command can be checked as it is.",
    )


@frozen
class EvaluateConfig(DataConfig):
    """Score models on one split, side by side: quality, agreement with the teacher, size and speed."""

    max_length: int | None = option(
        None,
        ge=4,
        panel="Data",
        help="Longest input in tokens. (default: what a run was trained with, else 256 for imdb and 128)",
    )
    models: Strings = positional((), help="Run folders, model folders or Hub ids.")
    predictions: Strings = option(
        (),
        panel="Model",
        help="File of somebody else's answers, repeatable: .csv, .jsonl … with label and score, a row each.",
    )
    endpoint: Strings = option(
        (),
        panel="Model",
        help="Classifier behind a URL, repeatable: inputs in, labels and scores out.",
    )
    teacher: str | None = option(
        None,
        panel="Model",
        short="-t",
        help="Compare the others with it. (default: the teacher a run names, if among the models)",
    )
    labels_only: str | None = option(
        None,
        panel="Model",
        help="Student that had labels alone; it is where gap_recovered begins. (default: a run at alpha 1)",
    )
    split: Split = option("validation", panel="Data", help="Split to score. It must have labels.")
    fail_under: Strings = option(
        (),
        panel="Gates",
        help="METRIC=VALUE, repeatable: exit code 3 if a model that has the metric is below.",
    )
    fail_over: Strings = option(
        (), panel="Gates", help="METRIC=VALUE, repeatable: exit code 3 if a model that has it is above."
    )
    baseline: Path | None = option(
        None, panel="Gates", help="An earlier --json: exit code 3 if a model is significantly worse than it."
    )
    report: Path | None = option(
        None, panel="Output", help="Folder for a page with pictures that opens anywhere, and the pictures."
    )
    markdown: Path | None = option(
        None, panel="Output", help="File for a summary, as a pull request shows it."
    )
    glue_submission: Path | None = option(
        None,
        panel="Output",
        help="Folder for the answers to GLUE's test split, as gluebenchmark.com takes them.",
    )
    latency: bool = option(
        True, panel="Speed", help="Time requests of one row too, 200 at most or 10 s a model."
    )
    threads: int | None = option(
        None, ge=1, panel="Speed", help="Cores that may compute. (default: those that torch takes)"
    )
    precision: Precision = option("auto", panel="Speed", help="Of the forward pass; auto as in train.")
    endpoint_batch_size: int = option(16, ge=1, panel="Speed", help="Rows a request to an endpoint.")
    concurrency: int = option(8, ge=1, panel="Speed", help="Requests to an endpoint at a time.")
    timeout: float = option(30.0, gt=0, panel="Speed", help="Seconds an endpoint has for a request.")
    retries: int = option(3, ge=0, panel="Speed", help="How often a failed request is sent again.")
    seed: int = option(42, ge=0, panel="Output", help="Of the samples that intervals come from.")

    @model_validator(mode="after")
    def _fits_together(self) -> "EvaluateConfig":
        if not (self.models or self.predictions or self.endpoint):
            raise ValueError("nothing to score: name a run or a model, or give --predictions or --endpoint")
        gates(self.fail_under, "--fail-under")
        gates(self.fail_over, "--fail-over")
        if self.glue_submission:
            if self.dataset not in GLUE_FILES:
                raise ValueError(f"--glue-submission is for --dataset {' or '.join(GLUE_FILES)}")
            if len(self.models) != 1:
                raise ValueError("--glue-submission takes the answers of one model: name one")
        if self.predictions and self.max_eval_samples:
            raise ValueError("--predictions files have all rows: leave --max-eval-samples out")
        for url in self.endpoint:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"--endpoint {url}: it begins with neither http:// nor https://")
        if not self.endpoint:
            for name in ("endpoint_batch_size", "concurrency", "timeout", "retries"):
                if getattr(self, name) != field_infos(EvaluateConfig)[name].default:
                    raise ValueError(f"{flag(name)} is of an endpoint: give --endpoint URL")
        return self

    @property
    def asks_one_by_one(self) -> bool:
        """Whether a request to an endpoint has a row's latency: it is one row, and none waits beside it."""
        return self.endpoint_batch_size == self.concurrency == 1


GLUE_FILES = {"sst2": "SST-2.tsv", "mrpc": "MRPC.tsv"}
P_MASK, P_POS = 0.1, 0.1


@frozen
class AugmentConfig(TextsConfig):
    """Make new texts of the training split's, as one Parquet file for a teacher to label."""

    output: Path = option(panel="Output", short="-o", help="Parquet file that receives the new texts.")
    overwrite: bool = option(
        False, panel="Output", help="Replace --output if it is there, once the new file is complete."
    )
    max_train_samples: int | None = option(
        None,
        ge=1,
        panel="Data",
        help="Make them of a stratified sample of N rows, the same whatever the seed.",
    )
    rule: Rule = option(
        "tang",
        panel="Augmentation",
        short="-r",
        help="tang: masks, words of the same part of speech, n-grams. tinybert: words that a model proposes.",
    )
    variants: int | None = option(
        None,
        ge=1,
        panel="Augmentation",
        short="-n",
        help="New texts tried per row; repeats are dropped. (default: 20; tang for pairs 10)",
    )
    p_mask: float | None = option(
        None, ge=0, le=1, panel="Augmentation", help="tang: probability of a masked word. (default: 0.1)"
    )
    p_pos: float | None = option(
        None,
        ge=0,
        le=1,
        panel="Augmentation",
        help="tang: probability of a word of the same part of speech instead. (default: 0.1)",
    )
    p_ngram: float | None = option(
        None,
        ge=0,
        le=1,
        panel="Augmentation",
        help="tang: probability that only an n-gram is kept. (default: 0.25)",
    )
    max_ngram: int | None = option(
        None, ge=1, panel="Augmentation", help="tang: longest n-gram, in words. (default: 5)"
    )
    mask_token: str | None = option(
        None, panel="Augmentation", help="tang: what stands for a masked word. (default: [MASK])"
    )
    p_replace: float | None = option(
        None, gt=0, le=1, panel="Augmentation", help="tinybert: probability of a new word. (default: 0.4)"
    )
    top_k: int | None = option(
        None, ge=1, panel="Augmentation", help="tinybert: candidates per word. (default: 15)"
    )
    candidates: Candidates | None = option(
        None,
        panel="Augmentation",
        help="tinybert: mlm: for words of one piece, a masked language model's. embeddings: for all words, "
        "their nearest neighbours. both: those for the words in several pieces. (default: both)",
    )
    mlm: str | None = option(
        None,
        panel="Augmentation",
        help="tinybert: Hub id or folder of the masked language model. "
        "(default: google-bert/bert-base-uncased)",
    )
    embeddings: str | None = option(
        None,
        panel="Augmentation",
        help="tinybert: text file of word vectors (GloVe, word2vec), or a model for its word-piece table. "
        "(default: the --mlm model's)",
    )
    precision: Precision | None = option(
        None, panel="Augmentation", help="tinybert: of the forward pass; auto as in train. (default: auto)"
    )
    seed: int = option(42, ge=0, lt=2**32, panel="Augmentation", short="-s", help="Of all that is drawn.")

    @model_validator(mode="after")
    def _fits_together(self) -> "AugmentConfig":
        if self.output.suffix != ".parquet":
            raise ValueError(f"--output {self.output}: name a file that ends in .parquet")
        for rule, names in RULE_OPTIONS.items():
            if rule != self.rule and (given := [name for name in names if getattr(self, name) is not None]):
                raise ValueError(f"{flag(given[0])} is for --rule {rule}, not {self.rule}: leave it out")
        if self.mask_token is not None and len(self.mask_token.split()) != 1:
            raise ValueError(f"--mask-token {self.mask_token!r}: it must be one word")
        p_mask = P_MASK if self.p_mask is None else self.p_mask
        p_pos = P_POS if self.p_pos is None else self.p_pos
        if p_mask + p_pos > 1:
            raise ValueError(
                f"--p-mask {p_mask:g} and --p-pos {p_pos:g} make more than 1: "
                "a word is masked or replaced, not both"
            )
        if self.candidates == "mlm" and self.embeddings is not None:
            raise ValueError("--embeddings is for --candidates embeddings or both, not mlm: leave it out")
        if self.candidates == "embeddings" and self.mlm is not None:
            raise ValueError("--mlm is for --candidates mlm or both, not embeddings: leave it out")
        if self.candidates == "embeddings" and self.embeddings is None:
            raise ValueError(
                "--candidates embeddings needs a table: give --embeddings FILE_OR_MODEL, "
                "such as glove.6B.300d.txt or google-bert/bert-base-uncased"
            )
        return self


# The options of one rule alone.
RULE_OPTIONS: dict[str, tuple[str, ...]] = {
    "tang": ("p_mask", "p_pos", "p_ngram", "max_ngram", "mask_token"),
    "tinybert": ("p_replace", "top_k", "candidates", "mlm", "embeddings", "precision"),
}


@frozen
class CacheConfig:
    """`cache path`, `cache list` and `cache verify` have no options of their own."""


@frozen
class CachePruneConfig:
    """Remove from the cache what is damaged or left over, and entries that are named or long unused."""

    key: Strings = option(
        (), panel="Cache", help="Remove the entry whose key begins so, repeatable. See `cache list`."
    )
    unused_days: int | None = option(
        None, ge=1, panel="Cache", help="Remove entries that no run has used for N days."
    )
    all: bool = option(False, panel="Cache", help="Remove every entry.")


@frozen
class ReportConfig:
    """Draw how runs were trained: losses and metrics of every epoch, several runs in one picture."""

    runs: Strings = positional(help="Run folders.", min_length=1)
    output_dir: Path = option(
        Path("report"),
        panel="Output",
        short="-o",
        help="Folder for a page that opens anywhere, and the pictures.",
    )


LATENCIES = ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms")
# Figures of `evaluate` by which way is better.
HIGHER: tuple[str, ...] = (
    *("accuracy", "f1", "precision", "recall", "f1_macro", "precision_macro", "recall_macro", "mcc"),
    *("roc_auc", "average_precision", "agreement", "accuracy_kept", "gap_recovered", "rows_per_second"),
)
LOWER: tuple[str, ...] = (
    *("loss", "brier", "ece", "kl", *LATENCIES),
    *("parameters", "parameters_without_embeddings", "bytes", "peak_memory_bytes"),
)
FIDELITY = ("agreement", "kl", "accuracy_kept", "gap_recovered")
SHARES = ({*HIGHER} - {"rows_per_second"}) | {"brier", "ece"}


def gates(given: tuple[str, ...], option_name: str) -> tuple[tuple[str, float], ...]:
    """`("accuracy=0.85",)` as `(("accuracy", 0.85),)`. Raises `ValueError` naming the part that is wrong.

    Args:
        option_name: `--fail-under`, for figures of which more is better, or `--fail-over` for the others.
    """
    known, others, other = HIGHER, LOWER, "--fail-over"
    if option_name == other:
        known, others, other = LOWER, HIGHER, "--fail-under"
    parsed = []
    for gate in given:
        metric, equals, value = gate.partition("=")
        if metric in others:
            raise ValueError(f"{option_name} {gate}: that would hold what is good. Use {other} {gate}")
        if not equals or metric not in known:
            close = difflib.get_close_matches(metric, known, n=1)
            near = f", such as {close[0]}=NUMBER" if close and close[0] != metric else ""
            raise ValueError(
                f"{option_name} {gate}: write METRIC=VALUE{near}. The metrics are {', '.join(known)}"
            )
        try:
            threshold = float(value)
        except ValueError:
            raise ValueError(f"{option_name} {gate}: {value!r} is not a number; try {metric}=0.85") from None
        if not abs(threshold) < float("inf"):
            raise ValueError(f"{option_name} {gate}: {value!r} is no threshold; try {metric}=0.85")
        if metric in SHARES and threshold >= 2:
            raise ValueError(f"{option_name} {gate}: {metric} is a share; try {metric}={threshold / 100:g}")
        parsed.append((metric, threshold))
    return tuple(parsed)


AnyFit = TypeVar("AnyFit", bound=FitConfig)

# What `epochs`, `batch_size` and `learning_rate` are when they are not given.
TRAIN_DEFAULTS = {"epochs": 3, "batch_size": 32, "learning_rate": 5e-5}
BILSTM_DEFAULTS = {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3}
ENCODER_DEFAULTS = {"epochs": 5, "batch_size": 32, "learning_rate": 1e-4}
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


RESOLVED = tuple(TRAIN_DEFAULTS)  # fields whose default depends on the command or the student


def default_text(config_type: type[Any], name: str) -> str:
    """The default of a field in `RESOLVED`, in words for `--help`."""
    if not issubclass(config_type, DistillConfig):
        return f"{TRAIN_DEFAULTS[name]:g}"
    return f"bilstm {BILSTM_DEFAULTS[name]:g}, else {ENCODER_DEFAULTS[name]:g}"


def resolve(config: AnyFit) -> AnyFit:
    """`config` with every default that depends on other fields written out."""
    found: dict[str, Any] = {"max_length": 256 if config.dataset == "imdb" else 128}
    if not isinstance(config, DistillConfig):
        found |= TRAIN_DEFAULTS
    elif config.student != "bilstm":
        found |= ENCODER_DEFAULTS | {"init": "pretrained", "layers": OWN_LAYERS.get(config.student)}
    else:
        words = config.reads_words
        found |= BILSTM_DEFAULTS | {
            "vocabulary": "words" if words else "teacher",
            "init": "random" if words else "teacher",
            "layers": OWN_LAYERS["bilstm"],
            "hidden_size": 300 if config.is_pair else 150,
            "dropout": 0.1,
            "pooling": "both",
            "word_dropout": 0.0,
        }
        if words:
            found |= {"vocabulary_size": 20_000}
        if words or config.init == "random":
            found |= {"embedding_size": 300}
    if isinstance(config, DistillConfig):
        found |= {"method": "logits"} | METHOD_DEFAULTS.get(config.method or "logits", {})
        if config.method == "general":
            found |= {"init": "random"}  # a general student of weights that are one already is no use
    if isinstance(config, DistillConfig) and config.soft_loss == "kl":
        # DistilBERT's. The higher it is, the more KL is MSE again, with another scale (Hinton, section 2.1).
        found |= {"temperature": 2.0}
    unset = {name: value for name, value in found.items() if getattr(config, name) is None}
    return changed(config, **unset)


def resolve_augment(config: AugmentConfig) -> AugmentConfig:
    """`config` with every default that depends on the rule written out."""
    found: dict[str, Any]
    if config.rule == "tang":
        found = {"variants": 10 if config.is_pair else 20, "p_mask": P_MASK, "p_pos": P_POS, "p_ngram": 0.25}
        found |= {"max_ngram": 5, "mask_token": "[MASK]"}
    else:
        found = {"variants": 20, "p_replace": 0.4, "top_k": 15, "candidates": "both", "precision": "auto"}
        if config.candidates != "embeddings":
            found |= {"mlm": "google-bert/bert-base-uncased"}
        if config.candidates != "mlm":
            found |= {"embeddings": config.mlm or "google-bert/bert-base-uncased"}
    unset = {name: value for name, value in found.items() if getattr(config, name) is None}
    return replace(config, **unset)
