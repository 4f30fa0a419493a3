"""The script that goes with an exported folder: it runs by itself, and refuses what would answer wrongly."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distilkit import load
from distilkit.models import standalone
from distilkit.models.standalone import ANY, ARM, VNNI, Model, choose_graph

ExportModel = Callable[..., Path]
# Imports that a machine without torch does not have; `sys.modules[name] = None` makes each fail.
HEAVY = ("torch", "transformers", "distilkit", "onnx", "datasets", "sklearn", "pydantic")
ISOLATED = f"import runpy, sys; sys.modules.update(dict.fromkeys({HEAVY})); sys.argv = sys.argv[1:]; "
ISOLATED += "runpy.run_path(sys.argv[0], run_name='__main__')"


def run_script(folder: Path, *texts: str, stdin: str = "") -> list[list[str]]:
    """What predict.py prints where nothing but onnxruntime, tokenizers and numpy can be imported."""
    command = [sys.executable, "-c", ISOLATED, str(folder / "predict.py"), *texts]
    shown = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=120, check=False)
    assert shown.returncode == 0, shown.stderr
    return [line.split("\t") for line in shown.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["words", "bert"])
def test_it_answers_as_distilkit_does_with_three_packages(kind: str, export_model: ExportModel) -> None:
    folder = export_model(kind)
    texts = ["a great film", "a dull film", "", "word " * 100]
    expected = load(str(folder)).predict(texts)
    printed = run_script(folder, *texts)
    assert [row[:2] for row in printed] == [
        [label, f"{score:.4f}"] for label, score in zip(expected.labels, expected.scores, strict=True)
    ]
    assert run_script(folder, stdin="".join(f"{text}\n" for text in texts)) == printed


def test_pairs_are_parted_by_a_tab(export_model: ExportModel) -> None:
    folder = export_model("siamese")
    expected = load(str(folder)).predict(["a great film", "a dull film"], ["great fun", ""])
    printed = run_script(folder, "a great film\tgreat fun", "a dull film\t")
    assert [row[1] for row in printed] == [f"{score:.4f}" for score in expected.scores]


def test_a_batch_is_answered_as_its_texts_alone(export_model: ExportModel) -> None:
    for kind in ("words", "bert"):
        model = Model(export_model(kind))
        texts = ["a great film", "", "truly awful and boring", "no"]
        alone = np.concatenate([model.predict([text]) for text in texts])
        assert model.predict(texts) == pytest.approx(alone, abs=1e-6)
        assert model.predict(["", ""]).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu avx2 avx512f avx512_vnni", VNNI),
        ("x86_64", "fpu avx2 avx_vnni", VNNI),
        ("x86_64", "fpu avx2 avx512f", ANY),
        ("aarch64", "fp asimd asimddp", ARM),
        ("arm64", None, ARM),
        ("AMD64", None, ANY),
    ],
)
def test_the_file_is_that_of_the_cpu(
    machine: str, flags: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On x86 without VNNI, the file for VNNI answers wrongly and without any error."""
    monkeypatch.setattr(standalone.platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "exists", lambda self: flags is not None)
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: f"flags\t\t: {flags}\n")
    assert choose_graph([ARM, VNNI, ANY]) == expected
    assert choose_graph([ANY]) == ANY
    assert choose_graph(["model.onnx"]) == "model.onnx"
    wrong = VNNI if expected == ARM else ARM
    with pytest.raises(FileNotFoundError, match=f"needs {expected}"):
        choose_graph([wrong])


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "labels.json"])
def test_a_changed_file_is_refused(name: str, export_model: ExportModel) -> None:
    """Labels in another order, or a cut-off table, would give answers that look right."""
    folder = export_model("words")
    file = folder / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f"{name} is damaged, or has changed"):
        Model(folder)


def test_a_cpu_on_which_the_graph_is_wrong_is_refused(
    export_model: ExportModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums that are cut off without VNNI raise no error: only an answer that was exported shows them."""
    folder, original = export_model("words"), standalone.open_graph

    class Wrong:
        def __init__(self, content: bytes, threads: int = 0) -> None:
            self.session = original(content, threads)

        def run(self, *arguments: object) -> list[object]:
            (logits,) = self.session.run(*arguments)
            return [logits + np.array([0.5, 0])]

    monkeypatch.setattr(standalone, "open_graph", Wrong)
    with pytest.raises(ValueError, match=r"on this CPU its logits are wrong by 0\.5"):
        Model(folder)
