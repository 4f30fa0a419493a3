"""`export`: a folder that answers as the model does, or none."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Call, Interrupt, Notes, lively, tiny_bert, tiny_tokenizer, write_jsonl

from distilkit import ExportConfig, GateMissed, UserError, export
from distilkit.models.standalone import ANY, ARM, VNNI
from distilkit.runs.run import Run
from distilkit.workflows.exporting import graphs, workflow

ExportModel = Callable[..., Path]


def make_config(model: Run | Path | str, folder: Path, **options: Any) -> ExportConfig:
    name = str(model.path) if isinstance(model, Run) else str(model)
    return ExportConfig(model=name, output_dir=folder, **({"latency": False} | options))


def test_a_run_is_checked_on_its_own_rows(bilstm_runs: tuple[Run, Run], tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    result = export(make_config(bilstm_runs[0], folder))
    checked = result.manifest["checked"]
    assert (checked["dataset"], checked["split"], checked["rows"]) == ("sst2", "validation", 8)
    torch_model, graph = checked["models"]
    assert (torch_model["name"], graph["name"]) == ("torch", "model.onnx")
    assert graph["largest_difference"] < 1e-4 and graph["agreement"] == 1
    assert graph["accuracy"] == torch_model["accuracy"] == bilstm_runs[0].metrics["validation"]["accuracy"]
    assert json.loads((folder / "manifest.json").read_text()) == result.manifest
    assert result.document() == {"path": str(folder), **result.manifest}


def test_the_manifest_says_what_it_was_made_from_and_the_hash_of_every_file(
    bilstm_runs: tuple[Run, Run], tmp_path: Path
) -> None:
    folder = tmp_path / "exported"
    manifest = export(make_config(bilstm_runs[0], folder)).manifest
    names = {"model.onnx", "tokenizer.json", "labels.json", "predict.py"}
    assert {file.name for file in folder.iterdir()} == names | {"manifest.json"}
    assert set(manifest["files"]) == names
    for name, facts in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    assert manifest["source"]["model"] == str(bilstm_runs[0].path)
    assert manifest["source"]["architecture"] == "bilstm" and len(manifest["source"]["fingerprint"]) == 64
    assert manifest["max_length"] == 16 and manifest["inputs"] == ["input_ids", "attention_mask"]
    assert manifest["truncation"] == {"side": "right", "strategy": "longest_first"}
    assert manifest["padding"]["token"] == "[PAD]"
    assert json.loads((folder / "labels.json").read_text()) == ["negative", "positive"]


def test_int8_writes_a_graph_for_each_kind_of_cpu(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_can_check_all", lambda: True)
    folder = tmp_path / "exported"
    result = export(make_config(bilstm_runs[0], folder, int8=True, max_drop=100))
    assert result.manifest["graphs"] == [VNNI, ARM, ANY] and result.manifest["precision"] == "int8"
    assert not (folder / "model.onnx").exists()
    assert [model["name"] for model in result.manifest["checked"]["models"]] == ["torch", VNNI, ARM, ANY]


def test_a_cpu_without_vnni_writes_only_what_it_can_check(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the graph for VNNI would be found wrong, or worse, be let through untested."""
    monkeypatch.setattr(graphs, "_can_check_all", lambda: False)
    notes = Notes()
    result = export(make_config(bilstm_runs[0], tmp_path / "exported", int8=True, max_drop=100), notes)
    assert result.manifest["graphs"] == [ANY]
    assert any("no VNNI instructions" in note for note in notes.notes)


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a graph in int8 has lost its table."""
    from distilkit.workflows.exporting import quantization

    original = quantization._read_int8

    def lose(node: Any, values: Any) -> Any:
        return original(node, np.zeros_like(values))

    monkeypatch.setattr(quantization, "_read_int8", lose)
    monkeypatch.setattr(quantization, "MIN_TABLE_ROWS", 8)


def test_a_graph_that_loses_accuracy_is_refused_and_leaves_nothing(
    teacher_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: Call
) -> None:
    spoil(monkeypatch)
    folder = tmp_path / "exported"
    with pytest.raises(GateMissed, match=r"model_q.*: accuracy 0\.5000 is 50\.00 points below torch's 1"):
        export(make_config(teacher_run, folder, int8=True))
    answer = console("export", str(teacher_run.path), "--int8", "-o", str(folder), "--no-latency")
    assert answer.code == 3 and "--max-drop is 0.5" in answer.err and "Nothing was written" in answer.err
    assert list(tmp_path.iterdir()) == []
    assert export(make_config(teacher_run, folder, int8=True, max_drop=50)).path == folder


def test_a_graph_in_fp32_that_differs_from_torch_is_refused(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its accuracy may be the same by chance, as on eight rows."""
    from distilkit.workflows.exporting import bilstm_graph

    original = bilstm_graph._to_onnx_gates
    monkeypatch.setattr(bilstm_graph, "_to_onnx_gates", lambda weight: original(weight) * 1.05)
    with pytest.raises(GateMissed, match=r"model.onnx: a logit differs by .* from torch's"):
        export(make_config(bilstm_runs[0], tmp_path / "exported", max_drop=100))
    assert list(tmp_path.iterdir()) == []


def test_a_table_in_fp16_halves_a_bilstm(bilstm_runs: tuple[Run, Run], tmp_path: Path) -> None:
    result = export(make_config(bilstm_runs[0], tmp_path / "exported", fp16_table=True))
    assert result.manifest["graphs"] == ["model.onnx"]
    assert result.manifest["precision"] == "fp32 with an fp16 table"


@pytest.mark.parametrize("kind", ["words", "pieces", "siamese", "bert", "bert_pairs"])
def test_logits_are_those_of_torch(kind: str, export_model: ExportModel) -> None:
    manifest = json.loads((export_model(kind) / "manifest.json").read_text())
    assert manifest["checked"]["models"][1]["largest_difference"] < 1e-4
    assert manifest["takes_pairs"] == (kind in ("siamese", "bert_pairs"))


def test_a_folder_of_something_else_is_not_replaced(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, export_model: ExportModel
) -> None:
    folder = export_model("words")
    with pytest.raises(UserError, match="is not empty"):
        export(make_config(bilstm_runs[0], folder))
    assert export(make_config(bilstm_runs[0], folder, overwrite=True)).path == folder
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes.txt, which --overwrite would delete"):
        export(make_config(bilstm_runs[0], folder, overwrite=True))
    with pytest.raises(UserError, match="which --overwrite would delete"):
        export(make_config(bilstm_runs[0], bilstm_runs[1].path, overwrite=True))
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_interrupted_export_leaves_nothing(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_can_check_all", lambda: False)
    with pytest.raises(KeyboardInterrupt):
        export(make_config(bilstm_runs[0], tmp_path / "new" / "exported", int8=True), Interrupt("VNNI"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_data_needs_some(bert_dir: Path, tmp_path: Path, sst2_dir: Path) -> None:
    """An export that nothing was compared with would be an unchecked one."""
    with pytest.raises(UserError, match=r"checked on real rows, and no data is named. Give --dataset NAME"):
        export(make_config(bert_dir, tmp_path / "exported"))
    data = {"dataset": "sst2", "data_dir": sst2_dir}
    result = export(make_config(bert_dir, tmp_path / "exported", **data, max_eval_samples=4))
    assert result.manifest["checked"]["rows"] == 4


def test_data_that_has_gone_is_named(bilstm_runs: tuple[Run, Run], tmp_path: Path) -> None:
    moved = tmp_path / "run"
    (moved / "model").mkdir(parents=True)
    for file in bilstm_runs[0].path.rglob("*"):
        if file.is_file():
            target = moved / file.relative_to(bilstm_runs[0].path)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    text = (moved / "config.yaml").read_text().replace("data_dir: ", "data_dir: /gone")
    (moved / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"/gone.*is not there to check an export on. Give --data-dir"):
        export(make_config(moved, tmp_path / "exported"))


def test_what_is_exported_already_is_refused(export_model: ExportModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is an exported model already"):
        export(make_config(export_model("words"), tmp_path / "again"))


def test_a_tokenizer_that_does_more_than_its_file_is_refused(
    tmp_path: Path, sst2_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder would read texts differently from the model that was checked."""
    from distilkit.workflows.exporting import contents

    lively(tiny_bert()).save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    original = contents.tokenized

    def change(*arguments: Any, **options: Any) -> Any:
        for output in original(*arguments, **options):
            output["input_ids"][2] = output["input_ids"][2][::-1]
            yield output

    monkeypatch.setattr(contents, "tokenized", change)
    with pytest.raises(UserError, match=r"does more than its tokenizer.json says: row 3"):
        export(make_config(tmp_path / "bert", tmp_path / "exported", dataset="sst2", data_dir=sst2_dir))


def test_models_that_depend_on_padding_are_refused(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the graph puts texts of all lengths into a batch."""
    monkeypatch.setattr(workflow, "check_batching", lambda *_, **__: "its answers depend on padding")
    with pytest.raises(UserError, match="needs rows of one length"):
        export(make_config(bilstm_runs[0], tmp_path / "exported"))


def test_a_model_that_no_file_holds_is_refused_before_any_work(
    bilstm_runs: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protobuf would fail only after minutes, with a message that names neither model nor size."""
    monkeypatch.setattr(graphs, "MAX_WEIGHT_BYTES", 1_000)
    with pytest.raises(
        UserError, match=r"parameters take 0\.0 GB in fp32, and a file with a graph holds 2 GB"
    ):
        export(make_config(bilstm_runs[0], tmp_path / "exported"))
    assert list(tmp_path.iterdir()) == []


def test_int8_and_an_fp16_table_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave one out"):
        make_config("m", tmp_path, int8=True, fp16_table=True)


def test_json_is_the_manifest(bilstm_runs: tuple[Run, Run], tmp_path: Path, console: Call) -> None:
    folder = tmp_path / "exported"
    answer = console("export", str(bilstm_runs[0].path), "-o", str(folder), "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["schema"] == "distilkit.export/1" and document["path"] == str(folder)
    assert document["checked"]["models"][1]["latency"]["p50"] > 0
    shown = console("export", str(bilstm_runs[0].path), "-o", str(folder), "--overwrite", "--no-latency")
    assert shown.code == 0 and "largest diff" in shown.out and "model.onnx" in shown.out


def test_rows_of_other_classes_are_refused(bert_dir: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data" / "validation.jsonl", [{"text": "a", "label": x} for x in ("x", "y", "z")])
    with pytest.raises(UserError, match="classes"):
        export(make_config(bert_dir, tmp_path / "exported", data_dir=tmp_path / "data"))
