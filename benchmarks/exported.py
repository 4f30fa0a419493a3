"""Answers per second and latency of a model in torch, as an exported graph, in int8, and in a pipeline.

python -m benchmarks.exported --teacher runs/teacher --student runs/student
Every figure is of text in and probabilities out. Contenders take turns. Rows per second of CPU time say what
a core does that no other process shares.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import Options, Results, measure, parse

BATCHES = (1, 8, 32, 128)
SPLITS = {"sst2": ("sst2/validation.parquet", "sentence", 128), "imdb": ("imdb/test.parquet", "text", 256)}
Answer = Callable[[Sequence[str]], Any]


def read_texts(options: Options, name: str) -> tuple[list[str], int]:
    """Rows spread over a split, and how many tokens of each are read."""
    file, column, max_length = SPLITS[name]
    texts = pq.read_table(options.data / file, columns=[column])[column].to_pylist()
    rows = min(len(texts), options.rows or len(texts))
    return [texts[i] for i in np.linspace(0, len(texts) - 1, rows).astype(int)], max_length


def export_all(run: str, folder: Path, options: Options) -> dict[str, Path]:
    """Folders with the graph of a run in fp32 and in int8, each checked on SST-2."""
    from distilkit import ExportConfig, export

    folders = {"onnx": {}, "int8": {"int8": True}}
    shared: dict[str, Any] = {"dataset": "sst2", "data_dir": options.data / "sst2", "latency": False}
    for name, chosen in folders.items():
        # The drop is no part of this: what it is, `export` says.
        export(ExportConfig(model=run, output_dir=folder / name, max_drop=100, **shared, **chosen))
    return {name: folder / name for name in folders}


def open_folder(folder: Path, max_length: int, threads: int) -> Answer:
    """The class that people copy out of an exported folder."""
    from distilkit.models import standalone

    original = standalone.open_graph
    standalone.open_graph = lambda content, _=0: original(content, threads)
    try:
        model = standalone.Model(folder)
    finally:
        standalone.open_graph = original
    model.tokenizer.enable_truncation(max_length)
    return model.predict


def open_torch(run: str, max_length: int) -> Answer:
    """The model in torch, in the format that this CPU is faster in."""
    from distilkit import load

    return load(run, max_length=max_length, device="cpu").predict


def open_pipeline(run: str, max_length: int) -> Answer:
    """What a person writes first: `pipeline("text-classification")`, at whatever batch it is called with."""
    from transformers import pipeline

    import distilkit.models  # noqa: F401  # registers the BiLSTM

    classify = pipeline("text-classification", str(Path(run) / "model"), device="cpu")

    def answer(texts: Sequence[str]) -> Any:
        return classify(list(texts), batch_size=len(texts), truncation=True, max_length=max_length)

    return answer


def time_pass(answer: Answer, texts: Sequence[str], batch: int, spent: dict[str, list[float]]) -> float:
    """Rows per second of wall time, texts of like length together; CPU time and latencies go to `spent`."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    wall, cpu, latencies = time.perf_counter(), time.process_time(), []
    for start in range(0, len(order), batch):
        begun = time.perf_counter()
        answer([texts[i] for i in order[start : start + batch]])
        latencies.append(time.perf_counter() - begun)
    spent["cpu"].append(len(texts) / (time.process_time() - cpu))
    spent["p50"].append(1000 * float(np.percentile(latencies, 50)))
    spent["p95"].append(1000 * float(np.percentile(latencies, 95)))
    return len(texts) / (time.perf_counter() - wall)


def compare_contenders(
    results: Results, data: str, contenders: dict[str, Answer], texts: Sequence[str]
) -> None:
    """Measure every contender at every batch size, in turns, and write a row for each."""
    for answer in contenders.values():
        answer(texts[:16])
    spent: dict[str, dict[str, list[float]]] = {}
    runs = {}
    for name, answer in contenders.items():
        for batch in BATCHES:
            key = f"{data}, {name}, batch {batch}"
            spent[key] = {"cpu": [], "p50": [], "p95": []}
            runs[key] = lambda answer=answer, batch=batch, key=key: time_pass(
                answer, texts, batch, spent[key]
            )
    found = measure(runs, results.options.repeats)
    for name in contenders:
        keys = {batch: f"{data}, {name}, batch {batch}" for batch in BATCHES}
        best = max(BATCHES, key=lambda batch: statistics.median(spent[keys[batch]]["cpu"]))
        results.row(
            "exported",
            data=data,
            model=name,
            p50_ms=round(statistics.median(spent[keys[1]]["p50"]), 2),
            p95_ms=round(statistics.median(spent[keys[1]]["p95"]), 2),
            rows_per_s_at_1=round(statistics.median(found[keys[1]]), 1),
            best_batch=best,
            rows_per_s=round(statistics.median(found[keys[best]]), 1),
            rows_per_s_range=[round(value, 1) for value in (min(found[keys[best]]), max(found[keys[best]]))],
            rows_per_cpu_s=round(statistics.median(spent[keys[best]]["cpu"]), 1),
        )


def compare_lstms(results: Results, run: str, texts: Sequence[str], folder: Path) -> None:
    """DynamicQuantizeLSTM against the LSTM in fp32, both with a table and matrices in int8."""
    import onnxruntime
    from transformers import AutoModelForSequenceClassification

    import distilkit.models  # noqa: F401  # registers the BiLSTM
    from distilkit.models.standalone import VNNI, Model
    from distilkit.workflows.exporting.bilstm_graph import build_bilstm_graph
    from distilkit.workflows.exporting.quantization import KINDS, quantize

    graph = build_bilstm_graph(AutoModelForSequenceClassification.from_pretrained(Path(run) / "model").eval())
    model, options = Model(folder), onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    answers: dict[str, Answer] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, lstm in {"LSTM fp32, table int8": False, "DynamicQuantizeLSTM": True}.items():
            content = quantize(graph, KINDS[VNNI], Path(scratch), lstm=lstm)
            session = onnxruntime.InferenceSession(content.SerializeToString(), options)

            def answer(texts: Sequence[str], session: Any = session) -> Any:
                model.session = session
                return model.predict(texts)

            answers[name] = answer
    compare_contenders(results, "sst2", answers, texts)


def main(options: Options) -> None:
    """Export both models, then measure them on short and on long texts."""
    import torch

    student, teacher = options.extra.student, options.teacher
    threads = options.extra.threads
    torch.set_num_threads(threads)
    results = Results("exported", options)
    results.fact("threads", threads)
    results.fact("load average before", [round(load, 2) for load in os.getloadavg()])
    with tempfile.TemporaryDirectory() as scratch:
        models = {"student": student, "teacher": teacher}
        folders = {name: export_all(run, Path(scratch) / name, options) for name, run in models.items()}
        for data in options.extra.datasets.split(","):
            texts, max_length = read_texts(options, data)
            contenders: dict[str, Answer] = {}
            for name, run in models.items():
                contenders[f"{name} torch"] = open_torch(run, max_length)
                for kind, folder in folders[name].items():
                    contenders[f"{name} {kind}"] = open_folder(folder, max_length, threads)
                contenders[f"{name} pipeline"] = open_pipeline(run, max_length)
            compare_contenders(results, data, contenders, texts)
        texts, _ = read_texts(options, "sst2")
        compare_lstms(results, student, texts, folders["student"]["int8"])
    results.fact("load average after", [round(load, 2) for load in os.getloadavg()])
    results.write()


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", required=True, help="run of a BiLSTM on SST-2")
    parser.add_argument("--threads", type=int, default=1, help="of every contender (default: 1)")
    parser.add_argument("--datasets", default="sst2,imdb", help="of sst2, imdb (default: both)")


if __name__ == "__main__":
    main(parse(__doc__, rows=400, quick_rows=64, add=add))
