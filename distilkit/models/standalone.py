"""Classify texts: python predict.py "a text" …, or a text a line on stdin; a pair is TEXT<tab>TEXT.

Needs onnxruntime, tokenizers and numpy. In Python: Model("FOLDER").predict(["a text", "another"]).
"""

import hashlib
import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tokenizers

# An x86 CPU without VNNI cuts off large sums of int8 products: only the avx2 file is right there.
VNNI, ARM, ANY = "model_qint8_avx512_vnni.onnx", "model_qint8_arm64.onnx", "model_quint8_avx2.onnx"


def choose_graph(names: Iterable[str]) -> str:
    """Return the file for this CPU."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text("utf-8").split()) if info.exists() else set()
    best = ARM if platform.machine() in ("arm64", "aarch64") else ANY
    best = VNNI if flags & {"avx512_vnni", "avx_vnni"} else best
    for name in (best, ANY, "model.onnx"):
        if name in names:
            return name
    raise FileNotFoundError(f"this CPU needs {best} or {ANY}, and neither is here")


def read_file(folder: Path, manifest: Any, name: str) -> bytes:
    """Return a file of the folder, which must be as it was exported."""
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest["files"][name]["sha256"]:
        raise ValueError(f"{folder / name} is damaged, or has changed since it was exported")
    return content


def open_graph(content: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """Return a graph that runs on so many threads; 0 is a thread for each core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave their core
    return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])


def check_graph(session: onnxruntime.InferenceSession, manifest: Any, name: str) -> None:
    """Refuse a graph that answers differently on this CPU from where it was exported."""
    check = manifest["check"]
    inputs = {key: np.array([values]) for key, values in check["inputs"].items()}
    difference = np.abs(session.run(["logits"], inputs)[0][0] - check["logits"][name]).max()
    if not difference <= check["tolerance"]:
        raise ValueError(f"{name}: on this CPU its logits are wrong by {difference:.3g}")


class Model:
    """A classifier in a folder."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.manifest = json.loads((folder / "manifest.json").read_bytes())
        name = choose_graph([name for name in self.manifest["graphs"] if (folder / name).exists()])
        self.labels = json.loads(read_file(folder, self.manifest, "labels.json"))
        vocabulary = read_file(folder, self.manifest, "tokenizer.json")  # cuts and pads too
        self.tokenizer = tokenizers.Tokenizer.from_buffer(vocabulary)
        self.session = open_graph(read_file(folder, self.manifest, name))
        check_graph(self.session, self.manifest, name)

    def predict(self, texts: Iterable[Any]) -> Any:
        """Return the probability of every label, float64 [texts, labels], of texts or tuples of two texts."""
        rows = self.tokenizer.encode_batch(list(texts))
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        names = self.manifest["inputs"]
        inputs = {name: np.array([getattr(row, columns[name]) for row in rows], np.int64) for name in names}
        if not inputs["input_ids"].size:  # texts without a token are read as one of padding
            pad = {"input_ids": self.manifest["padding"]["id"]}
            inputs = {name: np.full((len(rows), 1), pad.get(name, 0)) for name in names}
        logits = self.session.run(["logits"], inputs)[0].astype(np.float64)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    model = Model(Path(__file__).parent)
    for line in sys.argv[1:] or (line.rstrip("\n") for line in sys.stdin):
        scores = model.predict([tuple(line.split("\t", 1)) if model.manifest["takes_pairs"] else line])[0]
        print(f"{model.labels[scores.argmax()]}\t{scores.max():.4f}\t{line}", flush=True)
