"""What the student is unsure of goes to the teacher: a model here, or one behind a URL."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from conftest import BAD, GOOD, MakeModel, write_jsonl
from starlette.requests import Request
from starlette.responses import Response

from distilkit import Predictor, ServeConfig, UserError, load
from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions
from distilkit.progress import SILENT, Reporter
from distilkit.runs.run import Run
from distilkit.workflows.serving.batcher import Batcher
from distilkit.workflows.serving.metrics import Metrics
from distilkit.workflows.serving.served import Served, prepare
from distilkit.workflows.serving.service import Service
from distilkit.workflows.serving.teachers import Teacher, open_teacher, read_probabilities
from distilkit.workflows.serving.thresholds import Threshold
from distilkit.workflows.serving.trial_page import render_page

TEXTS = [*GOOD, *BAD]
CLASSES = ("negative", "positive")
FP32: dict[str, Any] = {"precision": "fp32", "device": "cpu"}
Answer = Callable[[Texts], Predictions]


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def sure_of_good(texts: Texts) -> Predictions:
    """A student that is sure of one sentence and of no other."""
    shares = [0.99 if text == GOOD[0] else 0.6 for text in texts.first]
    return Predictions(CLASSES, np.array([[1 - share, share] for share in shares]))


def always_negative(texts: Texts) -> Predictions:
    return Predictions(CLASSES, np.tile([0.9, 0.1], (len(texts), 1)))


def serve(teacher: Answer | None, threshold: float = 0.8, **options: Any) -> Served:
    config = ServeConfig(model="a", fallback="b" if teacher else None, **options)
    limits: dict[str, Any] = {"batch_size": 8, "wait_seconds": 0, "queue_size": config.queue_size}
    return Served(
        config,
        Batcher(sure_of_good, **limits),
        class_names=CLASSES,
        teacher=Batcher(teacher, **limits) if teacher else None,
        threshold=Threshold(threshold) if teacher else None,
    )


def ask(served: Served, document: Any, method: str = "predict", **options: Any) -> tuple[Response, Metrics]:
    """Send a request to a service without a socket."""
    metrics = Metrics()
    service = Service(ServeConfig(model="a", **options), served, metrics, token=None)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(document).encode(), "more_body": False}

    request = Request({"type": "http", "headers": [], "method": "POST"}, receive)
    with served:
        return asyncio.run(getattr(service, method)(request)), metrics


def test_the_teacher_answers_what_the_student_is_unsure_of() -> None:
    """Rows put back in another order would be other texts' answers."""
    inputs = [BAD[0], GOOD[0], GOOD[1]]
    response, metrics = ask(serve(always_negative), {"inputs": inputs})
    answers = [items[0] for items in json.loads(response.body)]
    assert [(item["label"], item["score"]) for item in answers] == [
        ("negative", 0.9),
        ("positive", 0.99),
        ("negative", 0.9),
    ]
    assert response.headers["x-teacher-rows"] == "0,2"
    assert metrics.read_counts().fallback_texts == 2 and metrics.read_counts().texts == 3


def test_a_sure_student_asks_no_teacher() -> None:
    def refuse(texts: Texts) -> Predictions:
        raise AssertionError

    response, metrics = ask(serve(refuse), {"inputs": GOOD[0]})
    assert response.status_code == 200 and "x-teacher-rows" not in response.headers
    assert metrics.read_counts().fallback_texts == 0


def test_without_an_answer_of_the_teacher_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """The student's own answer would break the promised agreement, unseen."""

    def fail(texts: Texts) -> Predictions:
        raise UserError(f"{texts.first} secret")

    response, metrics = ask(serve(fail), {"inputs": BAD[0]})
    document = json.loads(response.body)
    assert (response.status_code, document["error_type"]) == (503, "fallback")
    assert "retry-after" in response.headers and metrics.read_counts().refused == 1
    assert "secret" not in caplog.text and "UserError" in caplog.text


def test_both_are_shown_side_by_side() -> None:
    response, _ = ask(serve(always_negative), {"inputs": GOOD[0]}, "compare")
    document = json.loads(response.body)
    assert [document[side][0]["label"] for side in ("student", "teacher")] == ["positive", "negative"]
    assert document["threshold"] == 0.8
    response, _ = ask(serve(None), {"inputs": GOOD[0]}, "compare")
    document = json.loads(response.body)
    assert document["teacher"] is None and document["threshold"] is None


@pytest.mark.parametrize("items", [[("POS", 0.7)], [("Positive ", 0.7), ("negative", 0.3)]])
def test_scores_of_an_endpoint_are_matched_by_name(items: list[tuple[str, float]]) -> None:
    """Many endpoints name the best class alone: the others' probabilities are not made up."""
    answer: Any = [{"label": label, "score": score} for label, score in items]
    predictions = read_probabilities([answer[0] if len(answer) == 1 else answer], CLASSES, "b")
    expected = np.nan if len(items) == 1 else 0.3
    np.testing.assert_array_equal(predictions.probabilities, [[expected, 0.7]])


@pytest.mark.parametrize(("label", "score"), [("neutral", 0.5), ("positive", 1.5), ("positive", True)])
def test_an_endpoint_with_other_classes_or_scores_is_refused(label: str, score: Any) -> None:
    with pytest.raises(UserError, match="b"):
        read_probabilities([{"label": label, "score": score}], CLASSES, "b")


def test_classes_without_a_probability_are_left_out_of_the_answer() -> None:
    def best_only(texts: Texts) -> Predictions:
        return Predictions(CLASSES, np.tile([np.nan, 0.7], (len(texts), 1)))

    response, _ = ask(serve(best_only), {"inputs": BAD[0]})
    assert json.loads(response.body) == [{"label": "positive", "score": 0.7}]


def test_the_page_loads_nothing_and_runs_only_its_own_script() -> None:
    """A class named like markup must stay a name, and the policy's hash must be that of the script."""
    served = serve(always_negative)
    served.class_names = ("<img src=x>", "b")
    page = render_page(served, has_token=True, max_characters=9)
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'; connect-src 'self'" in page
    assert "<img" not in page and "&lt;img" in page and "innerHTML" not in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert 'name="token"' in page and 'name="pair"' not in page and "less than 80 % sure" in page
    served.wants_pairs = True
    assert 'name="pair"' in render_page(served, has_token=False, max_characters=9)


# --- a teacher here ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(bilstm_runs: tuple[Run, Run]) -> Predictor:
    return load(str(bilstm_runs[0].path), **FP32)


@contextmanager
def prepared(run: Run, student: Predictor, **options: Any) -> Iterator[tuple[Served, Notes]]:
    config, notes = ServeConfig(model=str(run.path), **options, **FP32), Notes()
    with open_teacher(config, SILENT) as teacher:
        yield prepare(config, student, teacher, Metrics(), notes), notes


def test_a_number_is_a_threshold_too(
    bilstm_runs: tuple[Run, Run], teacher_run: Run, student: Predictor
) -> None:
    with prepared(bilstm_runs[0], student, fallback=str(teacher_run.path), threshold=1.0) as (served, _):
        response, _ = ask(served, {"inputs": TEXTS})
    labels = [items[0]["label"] for items in json.loads(response.body)]
    assert labels == load(str(teacher_run.path), **FP32).predict(TEXTS).labels


def test_a_threshold_is_chosen_once_and_stored(
    bilstm_runs: tuple[Run, Run], teacher_run: Run, student: Predictor, tmp_path: Path, fresh_cache: Path
) -> None:
    """Rows without labels do. A second start, and a second worker, must not ask the teacher again."""
    rows = write_jsonl(
        tmp_path / "rows.jsonl", [{"text": f"{text} {i}"} for i in range(30) for text in TEXTS]
    )
    options: dict[str, Any] = {
        "fallback": str(teacher_run.path),
        "data_dir": rows,
        "min_agreement": 0.55,
    }
    with prepared(bilstm_runs[0], student, **options) as (served, notes):
        assert served.threshold and served.threshold.choice
        choice = served.threshold.choice
        assert choice.rows == 240 and choice.agreement_bound >= 0.55 and "Stored: " in notes.lines[-1]
    (file,) = (fresh_cache / "fallback").glob("*.json")
    assert json.loads(file.read_text())["choice"]["threshold"] == choice.threshold
    with prepared(bilstm_runs[0], student, **options) as (served, notes):
        assert served.threshold and served.threshold.choice == choice
        assert "Chosen before: " in notes.lines[-1]
    with prepared(bilstm_runs[0], student, **(options | {"min_agreement": 0.6})) as (served, notes):
        assert "Stored: " in notes.lines[-1], "another promise is another choice"


def test_a_threshold_that_cannot_be_chosen_is_a_mistake(
    bilstm_runs: tuple[Run, Run],
    teacher_run: Run,
    student: Predictor,
    make_bert: MakeModel,
    fresh_cache: Path,
) -> None:
    run = bilstm_runs[0]
    with (
        pytest.raises(UserError, match="8 rows cannot show that with 95 % confidence; it takes 149"),
        prepared(run, student, fallback=str(teacher_run.path)),
    ):
        pass
    with (
        pytest.raises(UserError, match="does not say which"),
        prepared(Run(Path("no-run")), student, fallback=str(teacher_run.path)),
    ):
        pass


def test_a_student_that_is_never_like_its_teacher_is_not_served(
    bilstm_runs: tuple[Run, Run], student: Predictor, tmp_path: Path, fresh_cache: Path
) -> None:
    rows = write_jsonl(
        tmp_path / "rows.jsonl", [{"text": f"{text} {i}"} for i in range(30) for text in TEXTS]
    )
    config = ServeConfig(model=str(bilstm_runs[0].path), fallback="b", data_dir=rows, **FP32)

    def contradict(texts: Texts) -> Predictions:
        return Predictions(CLASSES, student.predict(texts.first).probabilities[:, ::-1])

    teacher = Teacher("b", "b", lambda class_names: contradict, 8, 1)
    with pytest.raises(UserError, match=r"no threshold meets it on 240 rows.*differs from b in 100.0 %"):
        prepare(config, student, teacher, Metrics(), SILENT)


# --- a teacher behind a URL --------------------------------------------------------------------------------


def test_a_teacher_behind_a_url_is_asked_in_batches(
    bilstm_runs: tuple[Run, Run], student: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def post(self: Any, url: str, **options: Any) -> requests.Response:
        asked.append(options["json"]["inputs"])
        response = requests.Response()
        response.status_code = 200
        response.raw = FakeBody(json.dumps([{"label": "LABEL_1", "score": 0.7}] * len(asked[-1])).encode())
        return response

    monkeypatch.setattr(requests.Session, "post", post)
    options = {"fallback": "http://teacher.example/", "threshold": 1}
    with prepared(bilstm_runs[0], student, **options) as (served, _):
        response, _ = ask(served, {"inputs": TEXTS})
    assert asked == [TEXTS]
    assert json.loads(response.body) == [[{"label": "positive", "score": 0.7}]] * len(TEXTS)


class FakeBody:
    """What requests reads a body from."""

    def __init__(self, content: bytes) -> None:
        self.content = [content, b""]

    def read1(self, size: int, decode_content: bool) -> bytes:
        return self.content.pop(0)

    def close(self) -> None:
        pass

    def release_conn(self) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.9}, "threshold is for a fallback"),
        ({"data_dir": "rows"}, "data_dir is for a fallback"),
        ({"fallback": "b", "threshold": 2}, "between 0 and 1"),
        ({"fallback": "b", "threshold": "high"}, "between 0 and 1"),
        ({"fallback": "b", "threshold": "nan"}, "between 0 and 1"),
        ({"fallback": "b", "threshold": 0.9, "min_agreement": 0.9}, "min_agreement is for threshold auto"),
        ({"fallback": "b", "text_column": "t"}, "names a column of data_dir"),
        ({"fallback": "b", "min_agreement": 1}, "less than 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServeConfig(model="a", **options)
