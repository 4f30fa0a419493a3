"""`export --format web`: a page that runs a model in a browser, from a disk or any server of files."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer as Backend

from distilkit.data.texts import Texts
from distilkit.errors import UserError
from distilkit.progress import Reporter
from distilkit.reports.parts import format_bytes
from distilkit.reports.web_page import write_web_page
from distilkit.runs.exports import LABELS, TOKENIZER, list_files
from distilkit.workflows.exporting.contents import describe_file
from distilkit.workflows.exporting.web_tokenizer import check_in_node, describe_tokenizer

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
RUNTIME, LOADER, WASM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
# SHA-384 of these files, as a page states them.
DIGESTS = {
    RUNTIME: "Bw6URI+Gvoadw0do7/QrSHUC9D1vCYYK5OSqChFyhyV5mzPL4oe2rOAFljAnS8Sq",
    LOADER: "XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad",
    WASM: "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
NPM_SECONDS = 300
MAX_GRAPH_BYTES = 380_000_000  # in base 64 a browser's longest text


def write_web_folder(
    folder: Path, target: Path, manifest: dict[str, Any], texts: Texts, reporter: Reporter
) -> dict[str, Any]:
    """Write a page with the model of an exported folder into `target`; return the manifest beside it.

    Args:
        texts: rows that the tokenizer in JavaScript must read as the library does, where node is here.

    Raises:
        UserError: when its tokenizer cannot run in a browser, or the graph is too large for one.
    """
    name, (graph,) = manifest["source"]["model"], manifest["graphs"]
    backend = Backend.from_file(str(folder / TOKENIZER))
    content = (folder / graph).read_bytes()
    if len(content) > MAX_GRAPH_BYTES:
        raise UserError(
            f"{name}: a graph of {format_bytes(len(content))} is too large for a browser, which takes "
            f"{format_bytes(MAX_GRAPH_BYTES)}. Quantize it with --int8, or export a smaller student."
        )
    labels = json.loads((folder / LABELS).read_bytes())
    data = {
        "manifest": {key: manifest[key] for key in ("inputs", "padding", "check")} | {"graph": graph},
        "labels": labels,
        "tokenizer": describe_tokenizer(backend, name),
    }
    _write_script(target / "data.js", "distilkit", data)
    _write_script(target / "model.js", "distilkitModel", _encode(content))
    is_vendored = _write_runtime(target, reporter)
    write_web_page(
        target,
        f"{' or '.join(labels) if len(labels) < 4 else f'One of {len(labels)} labels'}?",
        _list_facts(manifest, len(content)),
        ["First text", "Second text"] if manifest["takes_pairs"] else ["Text"],
        cdn=None if is_vendored else CDN,
        integrity=DIGESTS[RUNTIME],
    )
    if not check_in_node(target, backend, texts, name):
        reporter.note("web: node is not installed, so that the tokenizer in JavaScript was not compared here")
    names = [file.name for file in list_files(target) if file.parent == target]
    return manifest | {"format": "web", "files": {name: describe_file(target / name) for name in names}}


def _list_facts(manifest: dict[str, Any], size: int) -> dict[str, str]:
    """Return what the page says of the model."""
    checked = manifest["checked"]
    full, graph = checked["models"]
    return {
        "Model": f"{manifest['source']['architecture']}, {format_bytes(size)}, {manifest['precision']}",
        "Accuracy": f"{graph['accuracy']:.4f} ({full['accuracy']:.4f} before the export)",
        "Checked on": f"{checked['rows']:,} rows of {checked['dataset']}, {checked['split']}",
        "Reads": f"at most {manifest['max_length']} tokens",
    }


def _write_script(file: Path, name: str, value: Any) -> None:
    """Write a script that sets a global value: a page on a disk may load scripts, and nothing else."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    file.write_text(f"globalThis.{name} = {text};\n", encoding="utf-8")


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _write_runtime(target: Path, reporter: Reporter) -> bool:
    """Write onnxruntime-web beside the page; return whether npm could bring it."""
    npm = shutil.which("npm")
    if not npm:
        reporter.note(f"web: npm is not installed, so that the page loads {PACKAGE} from {CDN}")
        return False
    with TemporaryDirectory(dir=target) as draft:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--prefer-offline", "--silent"]
        try:
            subprocess.run(
                command, cwd=draft, check=True, capture_output=True, encoding="utf-8", timeout=NPM_SECONDS
            )
            (archive,) = Path(draft).glob("*.tgz")
            files = _read_archive(archive)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, KeyError, ValueError) as error:
            reason = getattr(error, "stderr", None) or str(error)
            reporter.warn(
                f"npm pack {PACKAGE}@{VERSION} failed, so that the page loads it from {CDN}: "
                f"{' '.join(str(reason).split())[-200:]}"
            )
            return False
    (target / RUNTIME).write_bytes(files[RUNTIME])
    runtime = {"loader": _encode(files[LOADER]), "wasm": _encode(files[WASM])}
    _write_script(target / "runtime.js", "distilkitRuntime", runtime)
    return True


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Return the files of onnxruntime-web that a page needs. Raises `ValueError` where one has changed."""
    files = {}
    with tarfile.open(archive) as package:
        for name, expected in DIGESTS.items():
            member = package.extractfile(f"package/dist/{name}")
            assert member
            files[name] = member.read()
            digest = base64.b64encode(hashlib.sha384(files[name]).digest()).decode("ascii")
            if digest != expected:
                raise ValueError(f"{name} is not the file that {VERSION} is known to hold")
    return files
