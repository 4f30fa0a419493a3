"""What is wrong with a model folder that transformers cannot load, in one sentence."""

import json
from collections.abc import Iterator
from pathlib import Path

from distilkit.errors import UserError
from distilkit.runs.folder import read_object
from distilkit.runs.locating import Source, describe_adapter, is_adapter

LFS_POINTER = b"version https://git-lfs"
MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt")
MAX_REASON = 300  # characters of another library's message
MAX_VALUE = 80  # characters of a value that is shown
MIN_LENGTH = 4  # tokens: the least that --max-length may be


def explain_failure(source: Source, what: str, error: BaseException) -> UserError:
    """Return what to tell the user about a folder whose `what` transformers cannot load."""
    fault = next(_known_faults(source, str(error)), None)
    if fault:
        return UserError(f"{source.name}: {fault}")
    reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
    return UserError(f"{source.name}: its {what} cannot be loaded. {reason}")


def _known_faults(source: Source, message: str) -> Iterator[str]:
    folder = source.folder
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
