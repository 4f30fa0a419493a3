"""`label`: a teacher's answers in a file that `distill` takes, whole or in parts, also after a kill."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import BAD, GOOD, QUICK, Notes, write_jsonl

from distilkit import DistillConfig, LabelConfig, distill, label, load
from distilkit.data.files import read_file
from distilkit.data.teacher_files import read_teacher_file
from distilkit.engine.inference import logits as inference
from distilkit.engine.inference import posting
from distilkit.errors import UserError
from distilkit.runs.resumable import JOURNAL, parts_folder
from distilkit.runs.run import Run
from distilkit.workflows.labelling import model as labelling_model
from distilkit.workflows.labelling.tally import Tally

EXACT: dict[str, Any] = {"precision": "fp32", "device": "cpu"}
CLASSES = ("negative", "positive")


def make_rows(count: int) -> list[dict[str, Any]]:
    """Sentences of different lengths; all columns but the text would mislead who reads them as targets."""
    sentences = [*GOOD, *BAD]
    return [
        {
            "sentence": " ".join(sentences[(i * 5 + k) % 8] for k in range(1 + i % 4)) + f" {i}",
            "label": i % 2,
            "positive": 3,
            "logits": "x",
        }
        for i in range(count)
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data" / "train.jsonl", make_rows(60))


@pytest.fixture
def options(teacher_run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(inference.TOKENS, "cpu", 64)
    monkeypatch.setitem(inference.CHUNK, "cpu", 16)
    return {"data": str(data), "model": str(teacher_run.path), **EXACT}


def read_logits(file: Path) -> dict[str, tuple[float, float]]:
    rows, _ = read_file(file, ["sentence", "logit_negative", "logit_positive"])
    return {row["sentence"]: (row["logit_negative"], row["logit_positive"]) for row in rows}


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_logits_are_the_models_in_every_format(options: dict[str, Any], tmp_path: Path, ending: str) -> None:
    """A digit that a format drops would train another student."""
    output = tmp_path / f"logits{ending}"
    result = label(LabelConfig(**options, output=output), Notes())
    texts = [row["sentence"] for row in make_rows(60)]
    expected = load(options["model"], **EXACT).predict(texts)
    teacher = read_teacher_file(str(output), ("sentence", None), CLASSES)
    assert teacher.kind == "logits" and list(teacher.texts.first) == texts
    exponentials = np.exp(teacher.logits.astype(np.float64))
    shares = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected.probabilities, atol=1e-5)
    assert result.tally.labels == {
        name: expected.labels.count(name) for name in CLASSES if name in expected.labels
    }
    exact = tmp_path / "exact.parquet"
    label(LabelConfig(**options, output=exact))
    np.testing.assert_array_equal(
        teacher.logits, read_teacher_file(str(exact), ("sentence", None), CLASSES).logits
    )


def test_the_student_of_the_file_is_that_of_the_teacher_to_the_byte(
    options: dict[str, Any], data: Path, fresh_cache: Path, tmp_path: Path
) -> None:
    """With an empty cache: logits that were computed in other batches may differ in their last bit."""
    write_jsonl(data.parent / "validation.jsonl", make_rows(8))
    output = tmp_path / "logits.parquet"
    label(LabelConfig(**options, output=output))
    common: dict[str, Any] = {"dataset": "sst2", "data_dir": data.parent, "alpha": 0.0, **EXACT, **QUICK}
    common |= {"vocabulary": "words"}
    of_teacher = distill(DistillConfig(**common, teacher=options["model"], output_dir=tmp_path / "a"))
    of_file = distill(DistillConfig(**common, teacher_file=str(output), output_dir=tmp_path / "b"))
    weights = [run.path / "model" / "model.safetensors" for run in (of_teacher, of_file)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("pieces_per_part", [1, 8])
def test_parts_at_once_hold_what_one_process_writes(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces_per_part: int
) -> None:
    """Parts take batches of a piece or, where there are many, whole pieces: neither may show in a logit."""
    monkeypatch.setattr(labelling_model, "PIECES_PER_PART", pieces_per_part)
    whole, folder = tmp_path / "whole.parquet", tmp_path / "parts"
    label(LabelConfig(**options, output=whole))
    results = [label(LabelConfig(**options, part=f"{i}/3", output=folder)) for i in (3, 1)]
    with pytest.raises(UserError, match=r"of 3 parts that label writes, 2 are missing.*label --part 2/3"):
        read_teacher_file(str(folder), ("sentence", None), CLASSES)
    results.append(label(LabelConfig(**options, part="2/3", output=folder)))
    assert [result.missing_parts for result in results] == [[1, 2], [2], []]
    assert sum(result.tally.rows for result in results) == 60
    read = {text: logits for file in folder.iterdir() for text, logits in read_logits(file).items()}
    assert read == read_logits(whole)
    teacher = read_teacher_file(str(folder), ("sentence", None), CLASSES)
    assert teacher.kind == "logits" and len(teacher.texts) == 60


def test_more_parts_than_batches_are_complete_with_empty_ones(
    options: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    write_jsonl(data, make_rows(2))
    folder = tmp_path / "parts"
    results = [label(LabelConfig(**options, part=f"{i}/12", output=folder)) for i in range(1, 13)]
    assert results[-1].missing_parts == [] and sum(result.tally.rows for result in results) == 2
    assert (folder / "part-01-of-12.parquet").is_file()
    assert len(read_teacher_file(str(folder), ("sentence", None), CLASSES).texts) == 2


def test_parts_of_another_job_are_refused(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    label(LabelConfig(**options, part="1/2", output=folder))
    with pytest.raises(UserError, match="which is none of 3 parts"):
        label(LabelConfig(**options, part="2/3", output=folder))
    with pytest.raises(
        UserError, match=r"part-1-of-2\.parquet is of another command, which differs in max_l"
    ):
        label(LabelConfig(**options, part="2/2", output=folder, max_length=8))
    write_jsonl(data, make_rows(59))
    with pytest.raises(UserError, match="differs in inputs"):
        label(LabelConfig(**options, part="2/2", output=folder))


def test_after_a_kill_the_same_command_goes_on_and_the_file_is_the_same(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.parquet", tmp_path / "logits.parquet"
    label(LabelConfig(**options, output=whole))

    class Killed(BaseException):
        pass

    add = Tally.add

    def stop_at_the_third(tally: Tally, block: Any) -> list[str]:
        if tally.pieces == 2:
            raise Killed
        return add(tally, block)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Tally, "add", stop_at_the_third)
        label(LabelConfig(**options, output=output))
    assert len((parts_folder(output) / JOURNAL).read_text().splitlines()) == 2
    with pytest.raises(UserError, match="Go on with --resume"):
        label(LabelConfig(**options, output=output))
    result = label(LabelConfig(**options, output=output, resume=True))
    assert result.resumed_rows == 32 and read_logits(output) == read_logits(whole)
    assert pq.read_table(output)["sentence"].equals(pq.read_table(whole)["sentence"])


def test_bad_rows_stop_the_command_or_are_left_out(
    options: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    rows = make_rows(20)
    rows[4]["sentence"] = " "
    write_jsonl(data, rows)
    with pytest.raises(UserError, match=r"row 5: the text is missing or empty.*--on-error skip"):
        label(LabelConfig(**options, output=tmp_path / "x.parquet"))
    result = label(LabelConfig(**options, output=tmp_path / "x.parquet", on_error="skip"))
    assert (result.tally.rows, result.tally.skipped) == (19, 1)
    parts = [
        label(LabelConfig(**options, part=f"{i}/2", output=tmp_path / "parts", on_error="skip")).tally
        for i in (1, 2)
    ]
    assert sum(part.skipped for part in parts) == 1 and sum(part.rows for part in parts) == 19


def test_a_folder_means_its_training_split(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    write_jsonl(data.parent / "validation.jsonl", make_rows(3))
    result = label(LabelConfig(**options | {"data": str(data.parent)}, output=tmp_path / "x.parquet"))
    assert result.tally.rows == 60


# --- an endpoint ----------------------------------------------------------------------------------------

Reply = Callable[[list[str]], tuple[int, Any]]


class Endpoint:
    """A classifier on the loopback interface."""

    def __init__(self) -> None:
        self.reply: Reply = lambda inputs: (200, [])
        self.asked: list[str] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
                endpoint.asked += inputs
                status, body = endpoint.reply(inputs)
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/predict"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(posting, "FIRST_WAIT_SECONDS", 0.01)
    running = Endpoint()
    yield running
    running.http.shutdown()
    running.http.server_close()


def both(text: str) -> list[dict[str, Any]]:
    share = (int(text.split()[-1]) + 1) / 100
    return [{"label": "positive", "score": share}, {"label": "negative", "score": 1 - share}]


def test_an_endpoint_that_lists_all_classes_gives_probabilities(
    endpoint: Endpoint, data: Path, tmp_path: Path
) -> None:
    endpoint.reply = lambda inputs: (200, [both(text) for text in inputs])
    output = tmp_path / "answers.jsonl"
    config = {"data": str(data), "endpoint": endpoint.url, "text_column": "sentence", "output": output}
    label(LabelConfig(**config))
    teacher = read_teacher_file(str(output), ("sentence", None), CLASSES)
    assert teacher.kind == "probabilities"
    np.testing.assert_allclose(np.exp(teacher.logits[:, 1]), [(i + 1) / 100 for i in range(60)], rtol=1e-5)
    assert len(endpoint.asked) == 60


def test_an_endpoint_with_one_class_a_row_gives_labels_and_scores_and_is_not_asked_twice(
    endpoint: Endpoint, data: Path, tmp_path: Path
) -> None:
    def reply(inputs: list[str]) -> tuple[int, Any]:
        if len(endpoint.asked) > 30:
            return 404, {"error": "gone"}
        return 200, [max(both(text), key=lambda item: item["score"]) for text in inputs]

    endpoint.reply = reply
    output = tmp_path / "answers.parquet"
    config = {"data": str(data), "endpoint": endpoint.url, "text_column": "sentence", "output": output}
    config |= {"endpoint_batch_size": 4, "concurrency": 1}
    with pytest.raises(UserError, match="status 404"):
        label(LabelConfig(**config))
    endpoint.asked.clear()
    endpoint.reply = lambda inputs: (
        200,
        [max(both(text), key=lambda item: item["score"]) for text in inputs],
    )
    label(LabelConfig(**config, resume=True))
    assert len(endpoint.asked) == 60 - 28
    assert read_teacher_file(str(output), ("sentence", None), CLASSES).kind == "confidence"


def test_an_endpoint_that_changes_its_classes_is_refused(
    endpoint: Endpoint, data: Path, tmp_path: Path
) -> None:
    odd = [{"label": "neutral", "score": 0.5}, {"label": "negative", "score": 0.5}]
    endpoint.reply = lambda inputs: (200, [odd if text.endswith(" 40") else both(text) for text in inputs])
    with pytest.raises(UserError, match="row 41: it answers with the class 'neutral', and before it had"):
        label(
            LabelConfig(
                data=str(data), endpoint=endpoint.url, text_column="sentence", output=tmp_path / "x.parquet"
            )
        )
