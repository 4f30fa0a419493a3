"""`export --format sagemaker`: what SageMaker unpacks, and what its toolkit calls."""

import json
import tarfile
from collections.abc import Callable
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import BAD, GOOD, Call

from distilkit import ExportConfig, UserError, export, load
from distilkit.runs.exports import list_files
from distilkit.runs.run import Run
from distilkit.workflows.exporting import sagemaker_handler
from distilkit.workflows.exporting.archive import pack_for_sagemaker

ExportModel = Callable[..., Path]
JSON, JSON_LINES = "application/json", "application/jsonlines"


@pytest.fixture(scope="module")
def archive(bilstm_runs: tuple[Run, Run], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that `export --format sagemaker` wrote."""
    folder = tmp_path_factory.mktemp("sagemaker") / "packed"
    model = str(bilstm_runs[0].path)
    export(ExportConfig(model=model, output_dir=folder, format="sagemaker", latency=False))
    return folder


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that SageMaker makes of an archive."""
    folder = tmp_path_factory.mktemp("opt")
    with tarfile.open(archive / "model.tar.gz") as file:
        file.extractall(folder, filter="data")
    return folder


def ask(model: Any, body: Any, content_type: str = JSON, accept: str = JSON) -> Any:
    """Answer a request as the toolkit does, with the functions in their order."""
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    requests = sagemaker_handler.input_fn(text, content_type)
    return json.loads(sagemaker_handler.output_fn(sagemaker_handler.predict_fn(requests, model), accept))


def test_the_archive_is_flat_and_the_manifest_lies_beside_it(archive: Path) -> None:
    """SageMaker looks for code/inference.py at the top; a folder around it would be ignored in silence."""
    assert [file.name for file in list_files(archive)] == ["manifest.json", "model.tar.gz"]
    with tarfile.open(archive / "model.tar.gz") as file:
        members = file.getmembers()
    assert [member.name for member in members] == [
        "code/inference.py",
        "code/requirements.txt",
        *("labels.json", "manifest.json", "model.onnx", "predict.py", "tokenizer.json"),
    ]
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {
        (0, 0, "", 0o644)
    }
    manifest = json.loads((archive / "manifest.json").read_text())
    content = (archive / "model.tar.gz").read_bytes()
    assert manifest["format"] == "sagemaker" and manifest["checked"]["models"][1]["agreement"] == 1
    assert manifest["files"] == {
        "model.tar.gz": {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    }


def test_a_model_gives_the_same_bytes_every_time(
    archive: Path, bilstm_runs: tuple[Run, Run], tmp_path: Path
) -> None:
    """Deployments compare hashes; a time stamp would make every build a new one."""
    model = str(bilstm_runs[0].path)
    export(ExportConfig(model=model, output_dir=tmp_path / "again", format="sagemaker", latency=False))
    assert (tmp_path / "again" / "model.tar.gz").read_bytes() == (archive / "model.tar.gz").read_bytes()


def test_an_archive_that_cannot_be_finished_leaves_nothing(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distilkit.workflows.exporting.archive.write_tar", fail)
    folder = tmp_path / "packed"
    with pytest.raises((OSError, UserError), match="No space left"):
        export(
            ExportConfig(model=str(bilstm_runs[0].path), output_dir=folder, format="sagemaker", latency=False)
        )
    assert list(tmp_path.iterdir()) == []


def test_the_unpacked_folder_is_an_export_like_any(unpacked: Path, bilstm_runs: tuple[Run, Run]) -> None:
    expected = load(str(bilstm_runs[0].path), precision="fp32", device="cpu").predict(GOOD)
    assert load(str(unpacked)).predict(GOOD).probabilities == pytest.approx(expected.probabilities, abs=1e-6)


def test_the_packed_folder_says_how_it_is_read(archive: Path, console: Call) -> None:
    answer = console("predict", str(archive), "a text")
    assert answer.code == 2 and "Unpack its model.tar.gz (tar xzf), and name that folder" in answer.err


def test_overwrite_replaces_it_and_nothing_else(
    archive: Path, bilstm_runs: tuple[Run, Run], tmp_path: Path
) -> None:
    config = ExportConfig(
        model=str(bilstm_runs[0].path), output_dir=tmp_path / "out", latency=False, overwrite=True
    )
    (tmp_path / "out" / "code").mkdir(parents=True)
    for file in list_files(archive):
        (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "out" / "code" / "mine.py").write_text("mine")
    with pytest.raises(UserError, match=r"holds code/mine.py, which --overwrite would delete"):
        export(config)
    (tmp_path / "out" / "code" / "mine.py").unlink()
    assert export(config).path == tmp_path / "out"


def test_the_handler_answers_as_the_model_does(unpacked: Path, bilstm_runs: tuple[Run, Run]) -> None:
    model = sagemaker_handler.model_fn(str(unpacked))
    texts = [*GOOD, *BAD, "", "word " * 100] * 5  # more than are answered at once
    predictions = load(str(bilstm_runs[0].path), precision="fp32", device="cpu").predict(texts)
    answers = ask(model, {"inputs": texts})
    assert [answer[0]["label"] for answer in answers] == list(predictions.labels)
    for answer, row in zip(answers, predictions.probabilities, strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert [scores[name] for name in predictions.class_names] == pytest.approx(list(row), abs=1e-6)
        assert answer[0]["score"] >= answer[1]["score"]
    assert ask(model, {"inputs": GOOD[0]}) == answers[0]
    assert (
        ask(model, json.dumps({"inputs": GOOD[0]}).encode(), "application/json; charset=utf-8") == answers[0]
    )
    assert ask(model, {"inputs": GOOD[0], "parameters": {"top_k": 1}}) == answers[0][:1]
    assert ask(model, {"inputs": [GOOD[0]], "parameters": {"threshold": 0.999999}}) == [[]]


def test_json_lines_are_answered_line_by_line(unpacked: Path) -> None:
    """Batch transform sends them; a separator of lines within a text must not split it."""
    model = sagemaker_handler.model_fn(str(unpacked))
    body = "".join(json.dumps({"inputs": text}, ensure_ascii=False) + "\n" for text in ("a\u2028b", "good"))
    requests = sagemaker_handler.input_fn(body.encode(), JSON_LINES)
    answers = sagemaker_handler.predict_fn(requests, model)
    lines = sagemaker_handler.output_fn(answers, JSON_LINES).splitlines()
    assert [json.loads(line) for line in lines] == [ask(model, {"inputs": t}) for t in ("a\u2028b", "good")]
    assert json.loads(sagemaker_handler.output_fn(answers, "*/*")) == [json.loads(line) for line in lines]


def test_pairs_are_answered_and_single_texts_refused(export_model: ExportModel) -> None:
    folder = export_model("siamese")
    model = sagemaker_handler.model_fn(str(folder))
    expected = load(str(folder)).predict(GOOD, BAD)
    items = [{"text": a, "text_pair": b} for a, b in zip(GOOD, BAD, strict=True)]
    assert [answer[0]["label"] for answer in ask(model, {"inputs": items})] == list(expected.labels)
    with pytest.raises(ValueError, match="compares two texts"):
        ask(model, {"inputs": GOOD})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], 'A request is {"inputs"'),
        ({"input": "a"}, 'A request is {"inputs"'),
        ({"inputs": "a", "top_k": 1}, 'may have "parameters"'),
        ({"inputs": []}, "empty list"),
        ({"inputs": [["a", "b"]]}, "inputs must be a text"),
        ({"inputs": 3}, "inputs must be a text"),
        ({"inputs": {"text": 3}}, "inputs must be a text"),
        ({"inputs": "a", "parameters": {"topk": 1}}, "top_k and threshold"),
        ({"inputs": "a", "parameters": {"top_k": 0}}, "whole number from 1"),
        ({"inputs": "a", "parameters": {"top_k": "1"}}, "whole number from 1"),
        ({"inputs": "a", "parameters": {"threshold": "x"}}, "threshold a number"),
    ],
)
def test_a_wrong_request_is_refused_with_a_reason(body: Any, message: str, unpacked: Path) -> None:
    model = sagemaker_handler.model_fn(str(unpacked))
    with pytest.raises(ValueError, match=message):
        ask(model, body)


def test_types_that_it_does_not_speak_are_named(unpacked: Path) -> None:
    with pytest.raises(ValueError, match="send application/json or application/jsonlines"):
        sagemaker_handler.input_fn("a", "text/csv")
    with pytest.raises(ValueError, match="Accept text/csv"):
        sagemaker_handler.output_fn([[]], "text/csv")


def test_the_toolkit_of_sagemaker_calls_the_handler(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and arguments are the toolkit's; with others it would silently load a pipeline."""
    toolkit = pytest.importorskip(
        "sagemaker_huggingface_inference_toolkit.handler_service", exc_type=ImportError
    )
    monkeypatch.syspath_prepend(str(unpacked / "code"))
    service = toolkit.HuggingFaceHandlerService()
    service.environment = SimpleNamespace(module_name="inference")
    properties = {"Content-Type": JSON, "Accept": JSON}
    context = SimpleNamespace(
        system_properties={"model_dir": str(unpacked), "batch_size": 1, "gpu_id": 0},
        request_processor=[SimpleNamespace(get_request_properties=lambda: properties)],
        metrics=SimpleNamespace(add_time=lambda *_: None),
        set_response_content_type=lambda *_: None,
    )
    service.initialize(context)
    (answer,) = service.handle([{"body": json.dumps({"inputs": GOOD[0]}).encode()}], context)
    assert json.loads(answer) == ask(sagemaker_handler.model_fn(str(unpacked)), {"inputs": GOOD[0]})


def test_the_packed_handler_is_the_tested_one(unpacked: Path) -> None:
    spec = spec_from_file_location("inference", unpacked / "code" / "inference.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.model_fn(str(unpacked))
    assert module.predict_fn(module.input_fn('{"inputs": "good"}', JSON), model) == [
        ask(model, {"inputs": "good"})
    ]


def test_what_differs_between_exports_stays_out_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    manifest = {"schema": "distilkit.export/1", "created": "now", "checked": {"rows": 1}}
    packed = pack_for_sagemaker(tmp_path / "folder", tmp_path, manifest)
    assert packed["created"] == "now" and packed["checked"] == {"rows": 1}
    inner = json.loads((tmp_path / "folder" / "manifest.json").read_text())
    assert inner == {"schema": "distilkit.export/1"}
