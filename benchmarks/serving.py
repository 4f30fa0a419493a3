"""Requests per second and latency of `serve`, against a plain FastAPI wrapper around transformers.pipeline.

python -m benchmarks.serving --teacher runs/teacher --student runs/student
Asks with wrk, a sentence a request, over loopback. Contenders take turns within each round, so that ratios
are of the same minutes. Requests per second of the server's CPU time say what it does where no other process
shares the cores; wrk has its own. With --load SECONDS it asks the student for so long and prints
the memory of the server; with --sigterm N it ends N servers under load and counts the answers that were
accepted and did not arrive.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from benchmarks.common import distilkit_command, machine, sentences

CONNECTIONS = [1, 16, 64]
CLIENTS = 16
SCRIPT = """
local bodies = {}
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
local row = 0
request = function()
  row = row % #bodies + 1
  return wrk.format("POST", "/", {["Content-Type"] = "application/json"}, bodies[row])
end
done = function(summary, latency, requests)
  io.write(string.format("RESULT %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout))
end
"""
WRAPPER = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

classify = pipeline("text-classification", model=sys.argv[1], top_k=None, device="cpu")
app = FastAPI()

class Inputs(BaseModel):
    inputs: str

@app.post("/")
def answer(body: Inputs):
    return classify(body.inputs, truncation=True, max_length=128)

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
"""


@contextmanager
def running(command: Sequence[object], port: int) -> Iterator["subprocess.Popen[str]"]:
    """Start a server and wait until it answers."""
    words = [str(word) for word in command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            while process.poll() is None:
                try:
                    requests.post(f"http://127.0.0.1:{port}/", json={"inputs": "a"}, timeout=60)
                    break
                except requests.ConnectionError:
                    time.sleep(0.1)
            yield process
        finally:
            process.kill()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask_and_watch(process: Any, port: int, connections: int, seconds: int, folder: Path) -> dict[str, float]:
    """What `ask` returns, with the requests per second of the server's CPU time."""
    before = cpu_seconds(process.pid)
    figures = ask(port, connections, seconds, folder)
    used = cpu_seconds(process.pid) - before
    while cpu_seconds(process.pid) > before + used:  # what wrk no longer waits for would slow the next
        used = cpu_seconds(process.pid) - before
        time.sleep(1)
    return figures | {"requests_per_cpu_second": figures["requests_per_second"] * seconds / used}


def ask(port: int, connections: int, seconds: int, folder: Path) -> dict[str, float]:
    """Requests per second and p99, as wrk measures them."""
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "30s",
        "-s",
        folder / "ask.lua",
    ]
    answer = subprocess.run(
        [*map(str, command), f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"BODIES": str(folder / "bodies")},
    )
    match = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", answer.stdout)
    assert match, answer.stdout
    count, microseconds, p99, errors = map(int, match.groups())
    return {"requests_per_second": 1e6 * count / microseconds, "p99_ms": p99 / 1000, "errors": errors}


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All contenders at each number of connections; they run at the same time and are asked in turn."""
    ports = {name: free_port() for name in ("pipeline", "teacher", "student", "student unbatched")}
    serve = distilkit_command("serve")
    (folder / "wrapper.py").write_text(WRAPPER)
    unbatched = ("--batch-size", 1, "--wait-ms", 0)
    commands: dict[str, list[object]] = {
        "pipeline": [sys.executable, folder / "wrapper.py", options.teacher / "model", ports["pipeline"]],
        "teacher": [*serve, options.teacher, "--port", ports["teacher"]],
        "student": [*serve, options.student, "--port", ports["student"]],
        "student unbatched": [*serve, options.student, "--port", ports["student unbatched"], *unbatched],
    }
    measured: dict[str, Any] = {}
    with (
        running(commands["pipeline"], ports["pipeline"]) as pipeline,
        running(commands["teacher"], ports["teacher"]) as teacher,
        running(commands["student"], ports["student"]) as student,
        running(commands["student unbatched"], ports["student unbatched"]) as unbatched_student,
    ):
        processes = dict(zip(ports, (pipeline, teacher, student, unbatched_student), strict=True))
        for connections in options.connections:
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ports}
            for _ in range(options.repeats):
                for name, port in ports.items():
                    rounds[name].append(
                        ask_and_watch(processes[name], port, connections, options.seconds, folder)
                    )
            for name, results in rounds.items():
                figures = {key: statistics.median(result[key] for result in results) for key in results[0]}
                for key in ("requests_per_second", "requests_per_cpu_second"):
                    base = [result[key] or float("nan") for result in rounds["pipeline"]]
                    ratios = [result[key] / b for result, b in zip(results, base, strict=True)]
                    figures[f"{key}_ratio"] = statistics.median(ratios)
                measured[f"{name}, {connections} connections"] = figures
                print(
                    f"{name:18} {connections:3} connections {figures['requests_per_second']:8.1f}/s "
                    f"({figures['requests_per_second_ratio']:.1f}x)  p99 {figures['p99_ms']:7.1f} ms  "
                    f"{figures['requests_per_cpu_second']:7.1f} per CPU second "
                    f"({figures['requests_per_cpu_second_ratio']:.1f}x)  {figures['errors']:g} errors",
                    flush=True,
                )
    return measured


def hold(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Memory of the student's server in mebibytes, every ten seconds of load."""
    port, memory = free_port(), []
    with running([*distilkit_command("serve"), options.student, "--port", port], port) as process:
        for _ in range(options.load // 10):
            figures = ask(port, 16, 10, folder)
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory.append(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024)
            print(f"{figures['requests_per_second']:.0f} requests/s, {memory[-1]:.0f} MiB", flush=True)
    return {"resident_mib": memory}


def end_under_load(options: argparse.Namespace) -> dict[str, int]:
    """End servers with SIGTERM while clients ask; count what was accepted and did not arrive."""
    lost = answered = 0
    for attempt in range(options.sigterm):
        port, arrived, lock = free_port(), [0], threading.Lock()

        def ask_on(url: str, arrived: list[int] = arrived, lock: Any = lock) -> None:
            with requests.Session() as session:
                while True:
                    try:
                        answer = session.post(
                            url, json={"inputs": ["a great film", "a dull film"]}, timeout=60
                        )
                    except requests.ConnectionError:
                        return  # it listens no more
                    with lock:
                        arrived[0] += answer.status_code == 200 and len(answer.json()) == 2

        command = [*distilkit_command("serve"), options.student, "--port", port, "--json"]
        command += ["--drain-seconds", 0.2, "--workers", 1 + attempt % 2]
        with running(command, port) as process:
            url = f"http://127.0.0.1:{port}/"
            threads = [threading.Thread(target=ask_on, args=[url]) for _ in range(CLIENTS)]
            for thread in threads:
                thread.start()
            time.sleep(0.5 + 0.1 * attempt)
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=120)
            for thread in threads:
                thread.join()
        document = json.loads(out)
        answered += arrived[0]
        lost += document["answered"] - 1 - arrived[0]  # one was asked to see whether it is up
        print(f"SIGTERM {attempt + 1}: {arrived[0]:,} arrived, {lost} lost so far", flush=True)
    return {"servers": options.sigterm, "answered": answered, "lost": lost}


def main() -> None:
    """Measure what was asked for, and print it as JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="run")
    parser.add_argument("--student", type=Path, required=True, help="run")
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/validation.parquet")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--load", type=int, default=0, help="seconds of load, for the memory")
    parser.add_argument("--sigterm", type=int, default=0, help="servers that are ended under load")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("This needs wrk: apt install wrk")
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts, _ = sentences(options.data, None)
        (folder / "bodies").write_text("".join(json.dumps({"inputs": text}) + "\n" for text in texts[:2000]))
        (folder / "ask.lua").write_text(SCRIPT)
        if options.load:
            results["load"] = hold(options, folder)
        if options.sigterm:
            results["sigterm"] = end_under_load(options)
        if not (options.load or options.sigterm):
            results["speed"] = compare(options, folder)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
