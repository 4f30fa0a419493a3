"""Models and answers as people have them: each is scored and learned from rightly or refused.

`model_cases.json` holds, per model folder and per predictions file of ../shared/cases, what a user types and
the right outcome: the least accuracy, what a note says, or how the error begins. MODEL stands for the folder.
Where a model answers, plain transformers answers the same rows too, one at a time.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Answer, Call, write_jsonl
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import distilkit.models.bilstm  # noqa: F401  (AutoModel loads students through it)

FOLDER = Path(os.environ.get("DISTILKIT_CASES", ROOT.parent / "shared" / "cases"))
TABLE: dict[str, Any] = json.loads((ROOT / "tests" / "model_cases.json").read_text(encoding="utf-8"))
MODELS, PREDICTIONS = TABLE["models"], TABLE["predictions"]
COMMANDS = [
    pytest.param(name, case, id=f"{name}-{case['command']}-{index}")
    for name, cases in MODELS.items()
    for index, case in enumerate(cases)
]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no folder {FOLDER}")

SIGNALS = {
    "negative": ["dull", "terrible", "boring", "clumsy", "awful", "stale", "weak", "poor", "ugly", "bad"],
    "positive": ["lovely", "moving", "fun", "excellent", "superb", "fresh", "good", "wonderful", "great"],
}
NEUTRAL = ["that", "film", "rather", "of", "a", "the", "movie", "by", "actor", "scene", "plot", "story", "it"]
LENGTHS = (2, 5, 9, 14, 20, 30)  # words of a text: models that see padding answer differently in a batch
MAX_LENGTH = 48
QUICK = ("--precision", "fp32", "--device", "cpu")
FITTING = ("--epochs", "1", "--batch-size", "8")
SMALL = ("--hidden-size", "8", "--embedding-size", "8")


def toy_rows(count: int, start: int) -> list[dict[str, Any]]:
    """Texts of many lengths with one word that tells their class, somewhere in the text."""
    values = []
    for row in range(start, start + count):
        length = LENGTHS[row % len(LENGTHS)]
        words = [NEUTRAL[(row * 7 + 3 * i * i + i) % len(NEUTRAL)] for i in range(length)]
        label = list(SIGNALS)[row // len(LENGTHS) % 2]
        words.insert(row * 5 % length, SIGNALS[label][row % len(SIGNALS[label])])
        values.append({"text": " ".join(words), "label": label})
    return values


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_jsonl(folder / "train.jsonl", toy_rows(24, start=0))
    write_jsonl(folder / "validation.jsonl", toy_rows(24, start=100))
    return folder


def read_split(data: Path, split: str) -> tuple[list[str], list[int]]:
    """Return texts and class ids: the place of a label among the sorted labels of the training split."""
    rows = {
        name: [json.loads(line) for line in (data / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("train", split)
    }
    names = sorted({str(row["label"]) for row in rows["train"]})
    return [row["text"] for row in rows[split]], [names.index(str(row["label"])) for row in rows[split]]


def answer_singly(folder: Path, texts: list[str], max_length: int) -> torch.Tensor:
    """Return the logits of plain transformers, a row at a time: no padding, no batch, no distilkit."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [
            tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt") for text in texts
        ]
        return torch.cat([model(**row, return_dict=True).logits for row in rows])


def check_refused(answer: Answer, beginning: str) -> None:
    assert answer.code == 2 and not answer.out
    message = answer.err.replace(f"{FOLDER}/models/", "").replace(f"{FOLDER}/predictions/", "")
    errors = message[message.index("error: ") :]
    assert errors.startswith(f"error: {beginning}")
    assert len(errors) <= 1000


def check_scores(values: dict[str, Any], logits: torch.Tensor, labels: list[int]) -> torch.Tensor:
    """Compare accuracy and loss with those of logits; return which rows are right."""
    targets = torch.tensor(labels)
    right = logits.argmax(dim=1) == targets
    assert values["accuracy"] == pytest.approx(float(right.float().mean()))
    assert values["loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-3
    )
    return right


def check_cached_logits(cache: Path, logits: torch.Tensor) -> None:
    """Compare the teacher's logits with those that a run has stored: each row must be among them."""
    stored = np.concatenate([load_file(file)["logits"] for file in cache.rglob("*.safetensors")])
    differences = np.abs(logits.numpy()[:, None] - stored[None]).max(axis=2)
    assert (differences.min(axis=1) <= 1e-4 + 1e-3 * np.abs(stored).max()).all()


@pytest.mark.parametrize(("name", "case"), COMMANDS)
def test_a_model_is_used_rightly_or_refused(
    name: str, case: dict[str, Any], console: Call, toy_data: Path, fresh_cache: Path, tmp_path: Path
) -> None:
    model, run, command = FOLDER / "models" / name, tmp_path / "run", case["command"]
    data = model.parent / "data" if case.get("own_data") else toy_data
    max_length = case.get("max_length", MAX_LENGTH)
    options = ["--data-dir", str(data), "--max-length", str(max_length), *QUICK]
    options += {
        "evaluate": [str(model), "--no-latency", "--json"],
        "train": ["--model", str(model), "--output-dir", str(run), *FITTING],
        "distill": ["--teacher", str(model), "--output-dir", str(run), *FITTING],
    }[command]
    options += SMALL if command == "distill" and "--student" not in case.get("options", ()) else ()
    options += [str(model) if option == "MODEL" else option for option in case.get("options", ())]
    answer = console(command, *options)
    if "error" in case:
        check_refused(answer, case["error"])
        assert not run.exists()
        return
    assert answer.code == 0, answer.err
    assert case.get("says", "") in answer.err
    texts, labels = read_split(data, "validation")
    if command == "evaluate":
        values = json.loads(answer.out)["models"][0]
        right = check_scores(values["metrics"], answer_singly(model, texts, max_length), labels)
        assert values["right"] == "".join(map(str, right.int().tolist()))
        accuracy = values["metrics"]["accuracy"]
    else:
        values = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["validation"]
        check_scores(values, answer_singly(run / "model", texts, max_length), labels)
        accuracy = values["accuracy"]
    if command == "distill":
        unique = sorted(set(read_split(data, "train")[0]))
        check_cached_logits(fresh_cache, answer_singly(model, unique, max_length))
    if case.get("twice"):
        assert console(command, *options, "--overwrite").code == 0, "its own cached logits are refused"
    if "layers" in case:
        config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
        assert config["num_hidden_layers"] == case["layers"]
    assert accuracy >= case.get("min_accuracy", 0)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_predictions_are_scored_rightly_or_refused(name: str, console: Call) -> None:
    case, file = PREDICTIONS[name], str(FOLDER / "predictions" / name)
    answer = console("evaluate", "--predictions", file, "--data-dir", str(FOLDER / "plain"), "--json")
    if "error" in case:
        check_refused(answer, case["error"])
        return
    assert answer.code == 0, answer.err
    (values,) = json.loads(answer.out)["models"]
    assert values["right"] == case["right"]
    assert values["metrics"].get("loss") == pytest.approx(case["loss"])
    if "says" in case:
        assert case["says"] in answer.err
    else:
        assert not answer.err
