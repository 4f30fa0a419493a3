"""`predict`: every row once, in order, with the answer that `evaluate` counts, also after a kill."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import BAD, GOOD, Notes, write_jsonl
from processes import WarmProcess

from distilkit import EvaluateConfig, PredictConfig, evaluate, load, predict
from distilkit.data.files import read_file
from distilkit.engine.inference import logits as inference
from distilkit.errors import UserError
from distilkit.runs.resumable import JOURNAL, parts_folder
from distilkit.runs.run import Run

EXACT: dict[str, Any] = {"precision": "fp32", "device": "cpu"}
SENTENCES = [text for both in zip(GOOD, BAD, strict=True) for text in both]


def make_rows(count: int) -> list[dict[str, Any]]:
    return [{"id": str(i), "text": f"{SENTENCES[i * 5 % 8]} {SENTENCES[i // 3 % 8]}"} for i in range(count)]


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def model(teacher_run: Run) -> str:
    """A run that tells good sentences from bad ones."""
    return str(teacher_run.path)


def to_rows(model: str, *inputs: str | Path, **options: Any) -> list[dict[str, Any]]:
    """What the command writes to stdout."""
    written: list[str] = []
    predict(
        PredictConfig(model=model, inputs=tuple(map(str, inputs)), **(EXACT | options)),
        Notes(),
        written.append,
    )
    return [json.loads(line) for line in "".join(written).split("\n")[:-1]]


def test_answers_are_those_that_evaluate_counts_to_the_row(
    tmp_path: Path, teacher_run: Run, bilstm_runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracy of one command and answers of another must not be of two different models."""
    rows = [{"sentence": row["text"], "label": i % 2} for i, row in enumerate(make_rows(60))]
    data = tmp_path / "data"
    write_jsonl(data / "validation.jsonl", rows)
    write_jsonl(data / "train.jsonl", rows)
    monkeypatch.setitem(inference.CHUNK, "cpu", 16)
    for run in (teacher_run, *bilstm_runs):
        result = evaluate(
            EvaluateConfig(models=(str(run.path),), dataset="sst2", data_dir=data, latency=False, **EXACT)
        )
        answers = result.scores[0].model_scores.answers
        answered = to_rows(str(run.path), data / "validation.jsonl", prefix="our_", scores=True)
        assert [row["our_label"] for row in answered] == [
            ("negative", "positive")[class_id] for class_id in answers.answer
        ]
        assert [row["our_score"] for row in answered] == answers.confidence.tolist()  # type: ignore[union-attr]
        assert [row["our_score_positive"] for row in answered] == answers.probabilities[:, 1].tolist()  # type: ignore[index]
        file = tmp_path / "predictions.jsonl"
        arguments: dict[str, Any] = {"model": str(run.path), "inputs": (str(tmp_path / "texts.jsonl"),)}
        write_jsonl(tmp_path / "texts.jsonl", [{"sentence": row["sentence"]} for row in rows])
        predict(PredictConfig(**arguments, output=file, overwrite=True, **EXACT))
        back = evaluate(
            EvaluateConfig(predictions=(str(file),), dataset="sst2", data_dir=data, latency=False)
        )
        for name in ("accuracy", "f1", "ece", "roc_auc"):
            assert back.scores[0].value(name) == pytest.approx(result.scores[0].value(name), abs=1e-12)


@pytest.mark.parametrize("output", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("source", ["jsonl", "csv", "parquet"])
def test_every_kind_of_file_becomes_every_other(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, source: str, output: str
) -> None:
    import pandas

    monkeypatch.setitem(inference.CHUNK, "cpu", 7)
    values = make_rows(30)
    file = tmp_path / f"in.{source}"
    frame = pandas.DataFrame(values)
    {"jsonl": lambda: write_jsonl(file, values), "csv": lambda: frame.to_csv(file, index=False)}.get(
        source, lambda: frame.to_parquet(file)
    )()
    out = tmp_path / f"out{output}"
    result = predict(PredictConfig(model=model, inputs=str(file), output=out, **EXACT))
    rows, names = read_file(out, ["id", "text", "label", "score"])
    assert names.names == ("id", "text", "label", "score")
    assert rows["id"][:] == [row["id"] for row in values]
    assert rows["label"][:] == load(model, **EXACT).predict([row["text"] for row in values]).labels
    assert len(set(rows["label"][:])) == 2
    assert result.tally.rows == 30 and sum(result.tally.labels.values()) == 30
    assert sorted(tmp_path.iterdir()) == sorted([file, out])


def test_several_files_are_one_stream(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(inference.CHUNK, "cpu", 4)
    values = make_rows(21)
    for i in range(3):
        write_jsonl(tmp_path / f"{i}.jsonl", values[7 * i : 7 * i + 7])
    rows = to_rows(model, *(tmp_path / f"{i}.jsonl" for i in range(3)))
    assert [row["id"] for row in rows] == [row["id"] for row in values]


def test_pairs_are_read_from_the_columns_that_the_run_was_trained_on(
    tmp_path: Path, mrpc_dir: Path, teacher_run: Run
) -> None:
    from conftest import QUICK, SMALL

    from distilkit import DistillConfig, distill

    run = distill(
        DistillConfig(
            dataset="mrpc", data_dir=mrpc_dir, alpha=1, output_dir=tmp_path / "pairs", **QUICK, **SMALL
        )
    )
    values = [{"sentence1": a, "sentence2": b} for a in GOOD for b in BAD]
    rows = to_rows(str(run.path), write_jsonl(tmp_path / "in.jsonl", values))
    expected = load(str(run.path), **EXACT).predict(
        [row["sentence1"] for row in values], [row["sentence2"] for row in values]
    )
    np.testing.assert_allclose([row["score"] for row in rows], expected.scores, atol=1e-6)
    renamed = write_jsonl(tmp_path / "b.jsonl", [{"a": r["sentence1"], "b": r["sentence2"]} for r in values])
    again = to_rows(str(run.path), renamed, text_column="a", text_pair_column="b")
    assert [row["label"] for row in again] == [row["label"] for row in rows]
    with pytest.raises(UserError, match=r"no column 'sentence2'.*--text-pair-column"):
        to_rows(str(run.path), write_jsonl(tmp_path / "c.jsonl", [{"sentence1": "a"}]))
    with pytest.raises(UserError, match=r"a line of text is no pair.*'sentence1' and 'sentence2'"):
        to_rows(str(run.path), "a great film")
    # What is not known of a folder alone shows in the model: an empty second text would be compared.
    shutil.copytree(run.model_path, tmp_path / "copy")
    for name in (str(run.path), str(tmp_path / "copy")):
        with pytest.raises(UserError, match="compares two texts, and here is only one a row"):
            load(name, **EXACT).predict(["a great film"])


def test_an_unsure_row_has_no_label_and_keeps_its_score(tmp_path: Path, model: str) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", make_rows(40))
    sure = to_rows(model, file, scores=True)
    threshold = float(np.median([row["score"] for row in sure]))
    unsure = to_rows(model, file, scores=True, threshold=threshold)
    assert 0 < sum(row["label"] is None for row in unsure) < 40
    for row, before in zip(unsure, sure, strict=True):
        assert row["label"] == (before["label"] if before["score"] >= threshold else None)
        assert row["score"] == before["score"] == max(row["score_negative"], row["score_positive"])
    out = tmp_path / "labels.txt"
    result = predict(PredictConfig(model=model, inputs=str(file), output=out, threshold=threshold, **EXACT))
    assert out.read_text().split("\n")[:-1] == [row["label"] or "" for row in unsure]
    assert result.tally.abstained == sum(row["label"] is None for row in unsure)
    assert sum(result.document()["labels"].values()) + result.tally.abstained == 40


def test_the_next_best_classes_come_after_the_best(make_bert: Any, tmp_path: Path) -> None:
    from conftest import lively, tiny_bert, tiny_tokenizer

    names = ("bad", "meh", "good")
    lively(tiny_bert(names=names)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for row in to_rows(str(tmp_path), *SENTENCES, top_k=3, scores=True):
        order = sorted(names, key=lambda name: -row[f"score_{name}"])
        assert [row["label"], row["top2_label"], row["top3_label"]] == order
        assert [row["score"], row["top2_score"], row["top3_score"]] == [row[f"score_{n}"] for n in order]
    assert list(to_rows(str(tmp_path), "a", top_k=2)[0]) == [
        *("text", "label", "score", "top2_label", "top2_score"),
    ]
    with pytest.raises(UserError, match=r"--top-k 4: .* has 3 classes. Use 3 or less"):
        to_rows(str(tmp_path), "a", top_k=4)


def test_bad_rows_stop_the_command_or_are_left_out_with_their_numbers(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inference.CHUNK, "cpu", 4)
    values = make_rows(20)
    values[2]["text"], values[13]["text"], values[19]["text"] = "", None, " "
    file = write_jsonl(tmp_path / "in.jsonl", values)
    out = tmp_path / "out.jsonl"
    config: dict[str, Any] = {"model": model, "inputs": str(file), "output": out, **EXACT}
    with pytest.raises(UserError, match=r"in.jsonl, row 3: the text is missing or empty.*--on-error skip"):
        predict(PredictConfig(**config))
    assert sorted(tmp_path.iterdir()) == [file]
    notes = Notes()
    result = predict(PredictConfig(**config, on_error="skip"), notes)
    assert [row["id"] for row in read_lines(out)] == [str(i) for i in range(20) if i not in (2, 13, 19)]
    assert notes.notes == [
        f"left out: {file}, row {row}: the text is missing or empty" for row in (3, 14, 20)
    ]
    document = result.document()
    assert (document["rows"], document["skipped"]) == (17, 3)
    assert document["skipped_rows"] == [note.removeprefix("left out: ") for note in notes.notes]


def test_reports_of_bad_rows_end_after_a_hundred(tmp_path: Path, model: str) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", [{"text": "" if i else "a"} for i in range(500)])
    notes = Notes()
    config = PredictConfig(model=model, inputs=str(file), on_error="skip", **EXACT)
    result = predict(config, notes, lambda text: None)
    assert result.tally.skipped == 499 and len(result.tally.skipped_rows) == len(notes.notes) == 100


def test_an_input_without_rows_is_refused(tmp_path: Path, model: str) -> None:
    empty = tmp_path / "in.csv"
    empty.write_text("text\n")
    config = PredictConfig(model=model, inputs=str(empty), output=tmp_path / "o.parquet", **EXACT)
    with pytest.raises(UserError, match=r"in.csv: there is no row to predict"):
        predict(config)
    blank = write_jsonl(tmp_path / "in.jsonl", [{"text": ""}])
    with pytest.raises(UserError, match=r"there is no row to predict: 1 rows were left out"):
        to_rows(model, blank, on_error="skip")
    assert sorted(tmp_path.iterdir()) == [empty, blank]


def test_rows_are_written_as_they_are_read(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays flat only if few rows are held: counted between reader and writer."""
    from distilkit.data import row_inputs

    monkeypatch.setitem(inference.CHUNK, "cpu", 50)
    rows_read = rows_written = 0
    read_rows = row_inputs.read_rows

    def counted(*arguments: Any) -> Any:
        nonlocal rows_read
        for piece in read_rows(*arguments):
            rows_read += len(piece)
            yield piece

    def write(text: str) -> None:
        nonlocal rows_written
        rows_written += text.count("\n")
        held.append(rows_read - rows_written)

    held: list[int] = []
    monkeypatch.setattr(row_inputs, "read_rows", counted)
    file = write_jsonl(tmp_path / "in.jsonl", make_rows(6000))
    predict(PredictConfig(model=model, inputs=str(file), **EXACT), Notes(), write)
    assert rows_written == 6000 and max(held) <= 1024 + 2 * 50


SCRIPT = """
import sys
from distilkit import PredictConfig, predict
from distilkit.engine.inference import logits
logits.CHUNK["cpu"] = 8
model, source, output = sys.argv[1:]
predict(PredictConfig(model=model, inputs=source, output=output, resume=True, on_error="skip",
                      precision="fp32", device="cpu"))
"""


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_killed_command_is_gone_on_with_without_a_lost_or_doubled_row(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """kill -9 at three moments, among them bad rows; then the same command to its end."""
    values = make_rows(3000)
    for i in range(0, 3000, 250):
        values[i]["text"] = ""
    source, output = write_jsonl(tmp_path / "in.jsonl", values), tmp_path / f"out{ending}"
    journal = parts_folder(output) / JOURNAL
    for finished in (1, 40, 200):
        process = WarmProcess(["-c", SCRIPT, model, source, output])
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= finished:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.0005)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        assert not output.exists()
    monkeypatch.setitem(inference.CHUNK, "cpu", 8)
    notes = Notes()
    config: dict[str, Any] = {"model": model, "inputs": str(source), "on_error": "skip", **EXACT}
    result = predict(PredictConfig(**config, output=output, resume=True), notes)
    assert result.resumed_rows >= 200 * 8 and f"goes on after {result.resumed_rows:,} rows" in notes.notes[0]
    assert result.tally.skipped == 12 and len(result.tally.skipped_rows) == 12
    whole = tmp_path / f"whole{ending}"
    predict(PredictConfig(**config, output=whole))
    if ending == ".parquet":
        assert pq.read_table(output).equals(pq.read_table(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()
    assert not parts_folder(output).exists()


def test_an_input_that_has_changed_is_not_gone_on_with(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(inference.CHUNK, "cpu", 8)
    values = make_rows(2000)
    source, output = write_jsonl(tmp_path / "in.jsonl", values), tmp_path / "out.csv"
    config: dict[str, Any] = {"model": model, "inputs": str(source), "output": output, **EXACT}

    class Stop(Notes):
        def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
            if done > 100:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(PredictConfig(**config), stop := Stop())
    assert "--resume" in stop.notes[-1]
    write_jsonl(source, values[1:])
    with pytest.raises(UserError, match=r"another command: it differs in inputs\."):
        predict(PredictConfig(**config, resume=True))
    write_jsonl(source, values)
    with pytest.raises(UserError, match=r"another command: it differs in threshold\."):
        predict(PredictConfig(**config, resume=True, threshold=0.9))
    result = predict(PredictConfig(**config, resume=True))
    assert result.resumed_rows > 0 and output.read_text().count("\n") == 2001
    assert np.isclose(sum(result.tally.labels.values()), 2000)


def test_an_output_that_is_read_or_cannot_be_written_is_refused(tmp_path: Path, model: str) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", make_rows(2))
    for output, message in (
        (file, "is read too"),
        (tmp_path, "is a folder"),
        (file / "out.csv", "is not a folder you can write to"),
    ):
        output = output if output.suffix else output / "x.csv"
        if message == "is a folder":
            output.mkdir()
        with pytest.raises(UserError, match=message):
            predict(PredictConfig(model=model, inputs=str(file), output=output, overwrite=True, **EXACT))
    with pytest.raises(UserError, match=r"output: name a file.*distilkit.load"):
        predict(PredictConfig(model=model, inputs="a"))
