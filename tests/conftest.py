"""Tiny models and datasets, made here: no test reaches a network or needs a download."""

import os

# Before anything imports the Hub's libraries, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Models this small only wait for each other's threads, more so where tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from distilkit.data import text_data
from distilkit.hardware.device import default_device, select_device
from distilkit.progress import Reporter
from distilkit.runs.run import Run

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, needs_cuda])]
ROOT = Path(__file__).parent.parent
SHARED_DATA = Path(os.environ.get("DISTILKIT_DATA", ROOT.parent / "shared" / "data"))

GOOD = ("a great film", "truly wonderful and moving", "great fun", "a moving story , well told")
BAD = ("a dull film", "truly awful and boring", "no fun", "a boring story , badly told")
WORDS = sorted({word for text in (*GOOD, *BAD) for word in text.split()} | {"the", "is", "same", "."})
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def rows(copies: int = 2) -> list[dict[str, Any]]:
    """8 * `copies` sentences, sorted by label as IMDB is."""
    negative = [{"sentence": text, "label": 0} for text in BAD * copies]
    positive = [{"sentence": text, "label": 1} for text in GOOD * copies]
    return negative + positive


LABELS = [row["label"] for row in rows(1)]


def noisy_rows() -> list[dict[str, Any]]:
    """104 sentences, 13 times the same 8: 3 of each have the other label, so that nobody is always right."""
    values = rows(13)
    for number, row in enumerate(values):
        if number % 52 // 4 % 6 == 0:
            values[number] = row | {"label": 1 - row["label"]}
    return values


def pair_rows(copies: int = 2) -> list[dict[str, Any]]:
    """Pairs of sentences with MRPC's columns."""
    same = [{"sentence1": text, "sentence2": text + " .", "label": 1} for text in GOOD * copies]
    other = [
        {"sentence1": good, "sentence2": bad, "label": 0} for good, bad in zip(GOOD, BAD, strict=True)
    ] * copies
    return other + same


def write_jsonl(file: Path, values: Sequence[dict[str, Any]]) -> Path:
    """A `.jsonl` file of `values`, its folder made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return file


def write_predictions(folder: Path, answers: list[Any], scores: list[float] | None = None) -> str:
    """Write a predictions file with a new name into `folder`."""
    values = [{"label": answer} for answer in answers]
    for value, score in zip(values, scores or [], strict=False):
        value["score"] = score
    return str(write_jsonl(folder / f"answers-{len(list(folder.iterdir()))}.jsonl", values))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Teacher logits are kept in a folder of this session, also by the commands that tests start.

    Without it the tests would write to the user's own cache, and read there what an earlier session left.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _device_of_the_environment() -> Iterator[None]:
    """No test leaves the device that it has selected to the next."""
    yield
    select_device(None)


@pytest.fixture
def device() -> torch.device:
    """The device of a command without `--device`: CUDA where there is some."""
    return default_device()


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever the test trains or predicts is computed on the CPU, also where there is CUDA."""
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cpu")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def fresh_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own: what other tests computed is not in it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DISTILKIT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def sst2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SST-2's layout: 16 training rows, 8 for validation, a test split with hidden labels."""
    folder = tmp_path_factory.mktemp("sst2")
    write_jsonl(folder / "train.jsonl", rows())
    write_jsonl(folder / "validation.jsonl", rows(1))
    write_jsonl(folder / "test.jsonl", [row | {"label": -1} for row in rows(1)])
    return folder


@pytest.fixture(scope="session")
def mrpc_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MRPC's layout: 16 training pairs, 8 for validation."""
    folder = tmp_path_factory.mktemp("mrpc")
    write_jsonl(folder / "train.jsonl", pair_rows())
    write_jsonl(folder / "validation.jsonl", pair_rows(1))
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's frame around a vocabulary of the test sentences' words."""
    backend = Backend(
        models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=64,
    )


def tiny_bert(names: Sequence[str] = ("negative", "positive"), layers: int = 2, seed: int = 0) -> Any:
    """A BERT of 24 dimensions, with dropout, so that a teacher left in train mode would show."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    return BertForSequenceClassification(config).eval()


def lively(model: Any, factor: float = 20) -> Any:
    """The same model with matrices so large that its answers differ between texts, by tenths at least.

    A tiny model as it is initialised says nearly the same of every text: mixed-up rows would not show.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)
    return model


class Notes(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.progress: dict[str, tuple[int, int]] = {}

    def note(self, message: str) -> None:
        self.notes.append(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        self.progress[task] = (done, total)


class Interrupt(Reporter):
    """Ctrl-C at the first note that contains `word`."""

    def __init__(self, word: str) -> None:
        self.word = word

    def note(self, message: str) -> None:
        if self.word in message:
            raise KeyboardInterrupt


def weights(run: Run) -> bytes:
    """The file with a run's weights."""
    return (run.model_path / "model.safetensors").read_bytes()


MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def make_bert(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """`make_bert(names=..., layers=..., seed=...)`: a folder with a tiny BERT and its tokenizer."""

    def make(**arguments: Any) -> Path:
        folder = tmp_path_factory.mktemp("bert")
        tiny_bert(**arguments).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def bert_dir(make_bert: MakeModel) -> Path:
    """A tiny BERT classifier: negative, positive."""
    return make_bert()


# What keeps a run on the tiny data short and the same on every machine.
QUICK: dict[str, Any] = {"precision": "fp32", "max_length": 16, "batch_size": 8, "epochs": 2}
SMALL = {"hidden_size": 6, "embedding_size": 6}


@pytest.fixture(scope="session")
def teacher_run(sst2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A `Run` of `train`: a tiny BERT that has learned the 8 sentences, with logits far from zero."""
    from distilkit import TrainConfig, train

    folder = tmp_path_factory.mktemp("runs")
    lively(tiny_bert(), factor=10).save_pretrained(folder / "bert")
    tiny_tokenizer().save_pretrained(folder / "bert")
    options = QUICK | {"epochs": 12, "learning_rate": 5e-3, "model": str(folder / "bert")}
    return train(TrainConfig(dataset="sst2", data_dir=sst2_dir, output_dir=folder / "teacher", **options))


@pytest.fixture(scope="session")
def bilstm_runs(
    sst2_dir: Path, teacher_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Run]:
    """Train a BiLSTM by distillation, and the same one on labels alone; both are often wrong."""
    from distilkit import DistillConfig, distill

    sizes: dict[str, Any] = {"hidden_size": 6, "embedding_size": 6, "dataset": "sst2", "data_dir": sst2_dir}
    folder = tmp_path_factory.mktemp("runs")
    options = QUICK | sizes | {"teacher": str(teacher_run.path)}
    distilled = distill(DistillConfig(**options, alpha=0, output_dir=folder / "distilled"))
    options |= {"epochs": 1}
    return distilled, distill(DistillConfig(**options, alpha=1, output_dir=folder / "labels"))


@pytest.fixture(scope="session")
def exported_models(
    sst2_dir: Path,
    mrpc_dir: Path,
    teacher_run: Run,
    bilstm_runs: tuple[Run, Run],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Return a function from a kind of model to a folder that `export` wrote of it, once a session."""
    from distilkit import DistillConfig, ExportConfig, distill, export

    folder = tmp_path_factory.mktemp("exports")

    def make_source(kind: str) -> tuple[Path, dict[str, Any]]:
        pairs: dict[str, Any] = {"dataset": "mrpc", "data_dir": mrpc_dir}
        if kind in ("words", "bert"):
            return (bilstm_runs[0] if kind == "words" else teacher_run).path, {}
        if kind == "pieces":
            options = QUICK | SMALL | {"dataset": "sst2", "data_dir": sst2_dir, "vocabulary": "teacher"}
            options |= {"teacher": str(teacher_run.path), "pooling": "both"}
            return distill(DistillConfig(**options, output_dir=folder / "source-pieces")).path, {}
        names = ("not_equivalent", "equivalent")
        lively(tiny_bert(names), factor=6).save_pretrained(folder / "pairs")
        tiny_tokenizer().save_pretrained(folder / "pairs")
        if kind == "bert_pairs":
            return folder / "pairs", pairs | {"max_length": 16}
        options = QUICK | SMALL | pairs | {"teacher": str(folder / "pairs")}
        return distill(DistillConfig(**options, output_dir=folder / "source-siamese")).path, {}

    def make(kind: str) -> Path:
        if not (folder / kind).exists():
            source, data = make_source(kind)
            config = ExportConfig(model=str(source), output_dir=folder / kind, latency=False, **data)
            export(config)
        return folder / kind

    return make


@pytest.fixture
def export_model(exported_models: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function from a kind of model to a copy of its exported folder, which the test may damage."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(exported_models(kind), tmp_path / kind, dirs_exist_ok=True))

    return copy


@pytest.fixture
def evaluating(sst2_dir: Path) -> Any:
    """Return a function from models and options to the config of `evaluate`: SST-2, fp32, no latency."""
    from distilkit import EvaluateConfig

    def make(*models: Run | Path, **options: Any) -> EvaluateConfig:
        names = tuple(str(one.path) if isinstance(one, Run) else str(one) for one in models)
        known: dict[str, Any] = {
            "dataset": "sst2",
            "data_dir": sst2_dir,
            "precision": "fp32",
            "latency": False,
        }
        return EvaluateConfig(models=names, **(known | options))

    return make


class Answer(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """`console("distill", ...)`: what the console script answers, in this process."""
    from distilkit.cli.app import main

    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # Typer sets its own
    on_sigterm = signal.getsignal(signal.SIGTERM)  # and main its own

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["distilkit", *arguments])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Answer(code, *capsys.readouterr())

    yield run
    signal.signal(signal.SIGTERM, on_sigterm)


def run_cli(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`distilkit ARGUMENTS` in a process of its own, as a person would type it."""
    command = [sys.executable, "-m", "distilkit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)


def real_data(name: str) -> Path:
    """The folder of a real dataset; the test is skipped, and says so, where it is missing."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"real data: {name} is not in {SHARED_DATA} (set DISTILKIT_DATA)")
    return folder


def family(kind: str, *, dropout: bool = True, **more: Any) -> Any:
    """A random tiny classifier of a model family, with that family's dropout or with none."""
    sizes: dict[str, Any] = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "pad_token_id": 1}
    sizes |= {"num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 24}
    if kind == "bilstm":
        import distilkit.models  # noqa: F401  # registers it

        sizes = {"vocab_size": 60, "embedding_size": 8, "hidden_size": 4, "pad_token_id": 1}
    if kind == "distilbert":
        sizes = {"vocab_size": 60, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "pad_token_id": 1}
    torch.manual_seed(0)
    found = AutoConfig.for_model(kind, **(sizes | more))
    for name in vars(found):
        if "drop" in name and not dropout:
            setattr(found, name, 0.0)
    return AutoModelForSequenceClassification.from_config(found)


def half_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the first half of a training split has no labels."""
    original = text_data.TextData.labels

    def half(self: Any, split: str) -> Tensor:
        labels = original(self, split).clone()
        labels[: len(labels) // 2 if split == "train" else 0] = -100
        return labels

    monkeypatch.setattr(text_data.TextData, "labels", half)


def watch_teacher(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each pass of a teacher reads, and that it reads them in eval mode."""
    from distilkit.workflows.distillation import teachers

    given: list[int] = []
    original = teachers.predict_texts

    def watched(teacher: Any, tokenizer: Any, texts: Any, positions: Any, **options: Any) -> Any:
        def check(module: Any, *_: Any) -> None:
            assert not module.training

        given.append(len(positions))
        hook = teacher.register_forward_pre_hook(check)
        try:
            yield from original(teacher, tokenizer, texts, positions, **options)
        finally:
            hook.remove()

    monkeypatch.setattr(teachers, "predict_texts", watched)
    return given


WHOLE = ["a", "great", "dull", "film", "story", "and", "moving", "un", "it", "don", "x2"]
PARTS = ["##s", "##able", "##watch", "##film", ".", ",", "'", "[unused1]"]


def wordpiece() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WHOLE, *PARTS])}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
