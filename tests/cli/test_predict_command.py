"""`distilkit predict` as a person types it: rows on stdout, everything else on stderr."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import BAD, GOOD, Call, write_jsonl

from distilkit.runs.run import Run

FAST = ("--precision", "fp32")


@pytest.fixture
def model(teacher_run: Run) -> str:
    return str(teacher_run.path)


class Stdin(io.TextIOWrapper):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")


def test_texts_are_answered_a_json_line_each(console: Call, model: str) -> None:
    answer = console("predict", model, GOOD[0], BAD[0], *FAST)
    assert answer.code == 0, answer.err
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [(GOOD[0], "positive"), (BAD[0], "negative")]
    assert all(list(row) == ["text", "label", "score"] and 0.5 <= row["score"] <= 1 for row in rows)
    assert f"{model}: 2 rows" in answer.err and "labels: negative 1, positive 1" in answer.err


@pytest.mark.parametrize("name", [[], ["-"]])
def test_stdin_is_read_line_by_line(
    console: Call, model: str, monkeypatch: pytest.MonkeyPatch, name: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(f"{GOOD[0]}\n{BAD[0]}\n\n".encode()))
    answer = console("predict", model, *name, "--format", "csv", "--scores", *FAST)
    assert answer.code == 0, answer.err
    head, *lines = answer.out.splitlines()
    assert head == "text,label,score,score_negative,score_positive"
    assert [line.split(",")[1] for line in lines] == ["positive", "negative"]


def test_a_real_pipe_works(model: str) -> None:
    command = [sys.executable, "-m", "distilkit", "predict", model, "--quiet", "--format", "tsv", *FAST]
    lines = "".join(f"{text}\n" for text in (*GOOD, *BAD))
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    labels = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert labels == ["label", *["positive"] * 4, *["negative"] * 4]


def test_json_is_one_document_with_the_rows(console: Call, model: str, tmp_path: Path) -> None:
    answer = console("predict", model, GOOD[0], "line\u2028separator", "--json", *FAST)
    document = json.loads(answer.out)
    assert document["schema"] == "distilkit.prediction/1" and document["rows"] == 2
    assert [row["text"] for row in document["predictions"]] == [GOOD[0], "line\u2028separator"]
    file, out = write_jsonl(tmp_path / "in.jsonl", [{"sentence": text} for text in GOOD]), tmp_path / "o.csv"
    document = json.loads(console("predict", model, str(file), "-o", str(out), "--json", *FAST).out)
    assert list(document) == [
        *("schema", "model", "output", "rows", "skipped", "skipped_rows", "abstained", "labels"),
        *("precision", "resumed_rows", "seconds", "rows_per_second"),
    ]
    assert (document["output"], document["labels"]) == (str(out), {"negative": 0, "positive": 4})
    again = console("predict", model, str(file), "-o", str(out), *FAST)
    assert (again.code, again.out) == (2, "") and "--overwrite" in again.err
    shown = console("predict", model, str(file), "-o", str(out), "--overwrite", *FAST)
    assert shown.out.startswith(f"{out}: 4 rows, ") and "labels: positive 4" in shown.out
    assert console("predict", model, str(file), "-o", str(out), "--overwrite", "-q", *FAST).out == ""


def test_a_config_file_sets_every_option(console: Call, model: str, tmp_path: Path) -> None:
    config = tmp_path / "predict.yaml"
    config.write_text(f"model: {model}\ninputs: [a great film]\nprefix: our_\nprecision: fp32\n")
    answer = console("predict", "--config", str(config))
    assert list(json.loads(answer.out)) == ["text", "our_label", "our_score"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.csv"], "missing.csv: there is no such file"),
        (["a", "--resume"], "--resume is for a file: add --output FILE"),
        (["a", "--overwrite"], "--overwrite is for a file"),
        (["-o", "o.csv", "--resume"], "--resume needs input that can be read again"),
        (["-", "a"], "- is stdin: give it alone"),
        (["a", "-o", "o.xlsx"], "--output o.xlsx: its ending must be one of .csv, .tsv, .jsonl"),
        (["a", "-o", "o.csv", "--format", "csv"], "--format is for rows on stdout"),
        (["a", "-o", "o.txt", "--scores"], "--output FILE.txt holds labels alone"),
        (["a", "--json", "--format", "csv"], "--format csv is for rows, and --json prints a document"),
        (["a", "--threshold", "1.5"], "--threshold"),
        (["a", "--top-k", "1"], "--top-k"),
        (["a", "--top-k", "3"], "--top-k 3: "),
        (["a", "--max-length", "1000"], "--max-length 1000 is more than the model reads"),
        ([""], "INPUTS"),
    ],
)
def test_mistakes_are_refused_and_leave_nothing(
    console: Call, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = console("predict", model, *arguments)
    assert (answer.code, answer.out) == (2, ""), answer
    assert message in answer.err and "Value error" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_refused(console: Call, tmp_path: Path) -> None:
    answer = console("predict", str(tmp_path / "no-model"), "a")
    assert answer.code == 2 and "not found" in answer.err
