"""What is wrong with a model folder that transformers cannot load, in one sentence."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from distilkit.errors import UserError, list_names
from distilkit.runs.exports import MANIFEST, is_export
from distilkit.runs.folder import read_object
from distilkit.runs.locating import Source, describe_adapter, is_adapter

LFS_POINTER = b"version https://git-lfs"
MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt")
READ_BY_TRANSFORMERS = ("config.json", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")
WEIGHTS, PICKLED_WEIGHTS = "model.safetensors", "pytorch_model.bin"
INDICES = (f"{WEIGHTS}.index.json", f"{PICKLED_WEIGHTS}.index.json")
# Files in a folder without weights that say why there are none.
FOREIGN_WEIGHTS = {
    ".gguf": "a GGUF file, for llama.cpp",
    ".h5": "of TensorFlow",
    ".msgpack": "of Flax",
    ".onnx": "an ONNX graph",
    ".incomplete": "a download that was broken off",
}
WHOLE = "Download or copy the folder again, whole."
INTEGERS = ("I8", "U8")  # as safetensors names the types that quantized weights are packed in
MAX_REASON = 300  # characters of another library's message
MAX_VALUE = 80  # characters of a value that is shown
MIN_LENGTH = 4  # tokens: the least that --max-length may be


def explain_failure(source: Source, what: str, error: BaseException) -> UserError:
    """Return what to tell the user about a folder whose `what` transformers cannot load."""
    fault = next(_known_faults(source, what, str(error)), None)
    if fault:
        return UserError(f"{source.name}: {fault}")
    reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
    return UserError(f"{source.name}: its {what} cannot be loaded. {reason}")


def _known_faults(source: Source, what: str, message: str) -> Iterator[str]:
    folder = source.folder
    if is_export(folder):
        origin = read_object(folder / MANIFEST).get("source")
        name = str(origin.get("model") if isinstance(origin, dict) else "")[:MAX_VALUE]
        yield (
            "it is an exported model, which answers texts and can be neither trained nor distilled. Name the "
            f"model that it was made from: {name}"
        )
    for file in find_lfs_pointers(folder)[:1]:
        yield (
            f"{file.name} is a Git LFS pointer and not the file itself. Fetch it where it was cloned: "
            "git lfs pull"
        )
    if "trust_remote_code" in message:
        yield (
            "it needs code that comes with it, which distilkit does not run. Use a model of an architecture "
            "that transformers has."
        )
    if is_adapter(folder):
        yield describe_adapter(folder)
    yield from _damaged_json(folder)
    if what == "model":
        yield from _missing_weights(folder)
        yield from _damaged_weights(folder)


def _damaged_json(folder: Path) -> Iterator[str]:
    for name in (*READ_BY_TRANSFORMERS, *INDICES):
        file = folder / name
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            yield f"{name} cannot be read as JSON ({str(error)[:MAX_VALUE]}). {WHOLE}"
            continue
        if name in INDICES and not _shards(content):
            yield f'{name} is damaged: "weight_map" must name a file for each weight. {WHOLE}'


def _shards(index: Any) -> list[str]:
    """Return the names of the files that an index of weights names; none where it is damaged."""
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        return []
    return sorted(set(files.values()))


def _missing_weights(folder: Path) -> Iterator[str]:
    """Say which file of weights is not there. transformers reads the first of these that is."""
    for name in (WEIGHTS, INDICES[0], PICKLED_WEIGHTS, INDICES[1]):
        file = folder / name
        if file.is_symlink() and not file.exists():
            yield f"{name} is a link to {file.readlink()}, which is not there. {WHOLE}"
        if file.is_file():
            shards = _shards(read_object(file)) if name in INDICES else []
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                yield (
                    f"{len(missing)} of its {len(shards)} files of weights are missing "
                    f"({list_names(missing)}). {WHOLE}"
                )
            return
    shards = sorted(file.name for file in folder.glob("model-*-of-*.safetensors"))
    if shards:
        yield f"it has {list_names(shards)} but not {INDICES[0]}, which lists them. {WHOLE}"
    for file in sorted(folder.iterdir()):
        if file.suffix in FOREIGN_WEIGHTS:
            yield (
                f"it has no {WEIGHTS}, only {file.name} ({FOREIGN_WEIGHTS[file.suffix]}), which distilkit "
                "does not read. Use the folder that save_pretrained of transformers wrote."
            )


def _damaged_weights(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            yield f"{file.name} is damaged or cut off ({str(error)[:MAX_VALUE]}). {WHOLE}"
    for file in sorted(folder.glob("pytorch_model*.bin")):
        try:
            torch.load(file, map_location="meta", weights_only=True)
        except Exception:  # of pickle, of zip files, of the system: whatever it is, it cannot be read
            yield (
                f"{file.name} is damaged or cut off, or holds more than weights, which distilkit does not "
                f"unpickle. Use a copy with {WEIGHTS}."
            )


def check_weight_types(source: Source) -> None:
    """Raise `UserError` where weights are packed as integers and no config says what they stand for.

    transformers would take the integers for the weights themselves, and any answer would come out.
    """
    if read_object(source.folder / "config.json").get("quantization_config"):
        return
    for file in sorted(source.folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as weights:
                packed = [
                    key
                    for key in weights.keys()  # noqa: SIM118 (a file, not a dict)
                    if key.endswith("weight") and weights.get_slice(key).get_dtype() in INTEGERS
                ]
        except (SafetensorError, OSError):
            continue  # loading tells what is wrong with it
        if packed:
            raise UserError(
                f"{source.name}: {file.name} holds quantized weights ({list_names(packed)}), and its "
                "config.json has no quantization_config that says how. Use a copy in float32 or bfloat16."
            )


def find_lfs_pointers(folder: Path) -> list[Path]:
    """Return the files of a model folder that are Git LFS pointers: a few lines in place of the content."""
    pointers = []
    for pattern in MODEL_FILES:
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                with file.open("rb") as content:
                    if content.read(len(LFS_POINTER)) == LFS_POINTER:
                        pointers.append(file)
    return pointers


def check_config_file(source: Source) -> None:
    """Raise `UserError` where `id2label` of config.json is no object of ids and names."""
    labels = read_object(source.folder / "config.json").get("id2label")
    if labels is not None and not isinstance(labels, dict):
        raise UserError(
            f'{source.name}: "id2label" in its config.json is {json.dumps(labels)[:MAX_VALUE]}. It must map '
            'ids to names, such as {"0": "negative", "1": "positive"}.'
        )


def check_tokenizer_file(source: Source) -> None:
    """Raise `UserError` where tokenizer_config.json has values that no tokenizer can work with."""
    values = read_object(source.folder / "tokenizer_config.json")
    inputs = values.get("model_input_names")
    if inputs is not None and not (isinstance(inputs, list) and "input_ids" in inputs):
        raise UserError(
            f"{source.name}: model_input_names in its tokenizer_config.json is "
            f'{json.dumps(inputs)[:MAX_VALUE]}. It must be a list with "input_ids" in it, such as '
            '["input_ids", "attention_mask"].'
        )
    limit = values.get("model_max_length")
    if limit is not None and not (isinstance(limit, int | float) and limit >= MIN_LENGTH):
        raise UserError(
            f"{source.name}: model_max_length in its tokenizer_config.json is "
            f"{json.dumps(limit)[:MAX_VALUE]}. It must be a number of tokens, such as 512."
        )
