"""`export --format web`: a page that has all it needs beside it, or says where it loads it from."""

import base64
import hashlib
import json
import re
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import Call, Notes

from distilkit import ExportConfig, UserError, export
from distilkit.models.standalone import ANY
from distilkit.runs.exports import list_files
from distilkit.runs.run import Run
from distilkit.workflows.exporting import web_folder, web_tokenizer


def make_config(run: Run, folder: Path, **options: Any) -> ExportConfig:
    return ExportConfig(model=str(run.path), output_dir=folder, format="web", latency=False, **options)


def read_script(file: Path) -> Any:
    """Return the value that a script sets."""
    match = re.fullmatch(r"globalThis\.\w+ = (.*);\n", file.read_text("utf-8"))
    assert match
    return json.loads(match[1])


@pytest.fixture(autouse=True)
def few_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Describe the first block of Unicode alone, because all of it takes seconds."""
    monkeypatch.setattr(web_tokenizer, "LAST", 0xFF)


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide npm and node."""
    monkeypatch.setattr("shutil.which", lambda name: None)


def test_without_npm_the_page_names_where_its_runtime_is_from(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, no_programs: None
) -> None:
    folder, notes = tmp_path / "web", Notes()
    manifest = export(make_config(bilstm_runs[0], folder), notes).manifest
    names = {"index.html", "data.js", "model.js", "tokenizer.js", "classify.js"}
    assert set(manifest["files"]) == names
    assert {file.name for file in list_files(folder)} == names | {"manifest.json"}
    page = (folder / "index.html").read_text("utf-8")
    assert (
        f'src="{web_folder.CDN}ort.wasm.min.js" integrity="sha384-{web_folder.DIGESTS["ort.wasm.min.js"]}"'
        in page
    )
    assert "runtime.js" not in page
    assert any("npm is not installed" in note and web_folder.CDN in note for note in notes.notes)
    assert any("node is not installed" in note for note in notes.notes)


def test_the_page_holds_graph_labels_and_what_was_checked(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, no_programs: None
) -> None:
    folder = tmp_path / "web"
    export(make_config(bilstm_runs[0], folder))
    export(ExportConfig(model=str(bilstm_runs[0].path), output_dir=tmp_path / "onnx", latency=False))
    graph = base64.b64decode(read_script(folder / "model.js"))
    assert graph == (tmp_path / "onnx" / "model.onnx").read_bytes()
    data = read_script(folder / "data.js")
    assert data["labels"] == ["negative", "positive"] and data["manifest"]["graph"] == "model.onnx"
    assert data["manifest"]["check"]["logits"]["model.onnx"] and data["tokenizer"]["maxLength"] == 16
    page = (folder / "index.html").read_text("utf-8")
    assert "negative or positive?" in page and "8 rows of sst2, validation" in page
    assert page.count("<textarea") == page.count("<label") == 1


def test_int8_is_the_graph_that_is_right_everywhere(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, no_programs: None
) -> None:
    """A browser does not say whether its CPU has VNNI; without it the others are wrong."""
    manifest = export(make_config(bilstm_runs[0], tmp_path / "web", int8=True, max_drop=100)).manifest
    assert manifest["graphs"] == [ANY] and manifest["precision"] == "int8"
    assert read_script(tmp_path / "web" / "data.js")["manifest"]["graph"] == ANY


def make_package(folder: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(folder / "onnxruntime-web-1.tgz", "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))


def test_what_npm_brings_lies_beside_the_page(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: name.encode() for name in web_folder.DIGESTS}
    digests = {
        name: base64.b64encode(hashlib.sha384(content).digest()).decode() for name, content in files.items()
    }
    monkeypatch.setattr(web_folder, "DIGESTS", digests)
    monkeypatch.setattr("shutil.which", lambda name: "npm" if name == "npm" else None)
    monkeypatch.setattr(web_folder.subprocess, "run", lambda *_, cwd, **__: make_package(Path(cwd), files))
    folder = tmp_path / "web"
    manifest = export(make_config(bilstm_runs[0], folder)).manifest
    assert (folder / "ort.wasm.min.js").read_bytes() == b"ort.wasm.min.js"
    runtime = read_script(folder / "runtime.js")
    assert base64.b64decode(runtime["wasm"]) == b"ort-wasm-simd-threaded.wasm"
    assert {"runtime.js", "ort.wasm.min.js"} <= set(manifest["files"])
    page = (folder / "index.html").read_text("utf-8")
    assert "https://" not in page and 'src="runtime.js"' in page


@pytest.mark.parametrize("fault", ["changed", "offline"])
def test_an_npm_that_fails_is_a_warning(
    fault: str, bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, cwd: Path, **__: Any) -> None:
        if fault == "offline":
            raise subprocess.CalledProcessError(1, "npm", stderr="npm error code ENOTFOUND")
        make_package(Path(cwd), dict.fromkeys(web_folder.DIGESTS, b"something else"))

    monkeypatch.setattr("shutil.which", lambda name: "npm" if name == "npm" else None)
    monkeypatch.setattr(web_folder.subprocess, "run", run)
    notes = Notes()
    export(make_config(bilstm_runs[0], tmp_path / "web"), notes)
    reason = "ENOTFOUND" if fault == "offline" else "is not the file that 1.30.0 is known to hold"
    assert any(reason in note and web_folder.CDN in note for note in notes.notes)
    assert web_folder.CDN in (tmp_path / "web" / "index.html").read_text("utf-8")


def test_a_graph_that_no_browser_takes_is_refused(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Call
) -> None:
    monkeypatch.setattr(web_folder, "MAX_GRAPH_BYTES", 1000)
    with pytest.raises(UserError, match=r"too large for a browser, which takes 0\.0 MB"):
        export(make_config(bilstm_runs[0], tmp_path / "web"))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_says_that_a_browser_reads_it(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, no_programs: None, console: Call
) -> None:
    export(make_config(bilstm_runs[0], tmp_path / "web"))
    answer = console("predict", str(tmp_path / "web"), "a text")
    assert answer.code == 2 and "a page for a browser" in answer.err
