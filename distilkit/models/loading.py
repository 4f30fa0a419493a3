"""From what a person types to a model: a run, a folder, a Hub id, or the short name `minilm`."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from distilkit.data.encoding import Tokenizer
from distilkit.errors import UserError
from distilkit.models.heads import config_names, label_config, reorder_head
from distilkit.models.locating import Source


@contextmanager
def hushed() -> Iterator[None]:
    """Turn off transformers' own bars and load reports: the loading functions report what matters."""
    verbosity = transformers.logging.get_verbosity()
    bar = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bar:
            transformers.logging.enable_progress_bar()


@contextmanager
def _telling(source: Source, what: str) -> Iterator[None]:
    """Turn what a damaged or foreign folder makes of transformers into one clear error."""
    try:
        with hushed():
            yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source.name}: its {what} cannot be loaded. {reason}") from None
    except Exception as error:
        # huggingface_hub's strict configs and tokenizers' Rust errors have no narrower public base class.
        if type(error).__module__.partition(".")[0] not in ("huggingface_hub", "builtins"):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source.name}: its {what} cannot be loaded. {reason}") from None


def load_config(source: Source) -> Any:
    """Load the `PreTrainedConfig` of a model."""
    with _telling(source, "config.json"):
        return AutoConfig.from_pretrained(source.folder)


def load_tokenizer(source: Source) -> Tokenizer:
    """Load the tokenizer of a model.

    Raises:
        UserError: when there is none that can pad.
    """
    with _telling(source, "tokenizer"):
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(source.folder)
    # Where there are no files, transformers may make up a tokenizer of special tokens alone.
    if tokenizer.pad_token_id is None or len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(
            f"{source.name}: it has no tokenizer that can pad. Put its tokenizer files into {source.folder}."
        )
    return tokenizer


def load_trained(source: Source) -> PreTrainedModel:
    """Load a classifier that is already fine-tuned, in eval mode.

    Raises:
        UserError: when the folder cannot be loaded or its classification head was never trained.
    """
    model: PreTrainedModel
    config_names(load_config(source), source.name)
    with _telling(source, "model"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source.folder, output_loading_info=True, dtype=torch.float32
        )
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{source.name} is not fine-tuned: its checkpoint has no {missing[0]}. "
            f"Fine-tune it first: distilkit train --model {source.name}"
        )
    model.eval()
    return model


def load_pretrained(source: Source, names: Sequence[str]) -> PreTrainedModel:
    """Load an encoder as pre-training left it, in eval mode; its head, if any, is meaningless.

    Raises:
        UserError: when the folder cannot be loaded or does not hold all of the encoder.
    """
    model, new = load_for_training(source, names)
    inside = f"{model.base_model_prefix}."
    if missing := [name for name in new if name.startswith(inside) and ".pooler." not in name]:
        raise UserError(f"{source.name} is not pre-trained: its checkpoint has no {missing[0]}.")
    model.eval()
    return model


def load_for_training(
    source: Source, names: Sequence[str], config: Any = None
) -> tuple[PreTrainedModel, list[str]]:
    """Load a model to fine-tune on classes `names`, and list which of its weights are new.

    A trained head for the same classes in another order is put into theirs; one for another number of
    classes is replaced by a new one.
    """
    config = load_config(source) if config is None else config
    trained_names = config_names(config, source.name)
    model: PreTrainedModel
    with _telling(source, "model"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source.folder,
            config=label_config(config, names),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    replaced = [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]
    new = sorted({*report["missing_keys"], *replaced})
    if not new:
        reorder_head(model, trained_names, names)
    return model, new


def load_masked_lm(source: Source) -> PreTrainedModel:
    """Load a masked language model, in eval mode.

    Raises:
        UserError: when the folder cannot be loaded or holds no masked-language-model head: what a new head
            proposes is noise.
    """
    config = load_config(source)
    missing = [] if type(config) in MODEL_FOR_MASKED_LM_MAPPING else [f"head for a {config.model_type}"]
    if not missing:
        model: PreTrainedModel
        with _telling(source, "model"):
            model, report = AutoModelForMaskedLM.from_pretrained(
                source.folder, output_loading_info=True, dtype=torch.float32
            )
        missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"--mlm {source.name} is no masked language model: there is no {missing[0]}. Give one that is, "
            "such as --mlm google-bert/bert-base-uncased, or do without: --candidates embeddings"
        )
    model.eval()
    return model


def load_embedding_table(source: Source) -> Tensor:
    """Load the trained input embeddings of a model, float32 `[vocabulary, width]`."""
    with _telling(source, "model"):
        model, report = AutoModel.from_pretrained(
            source.folder, output_loading_info=True, dtype=torch.float32
        )
    table = embedding_table(model)
    names = {name for name, parameter in model.named_parameters() if parameter is table}
    if names & set(report["missing_keys"]):
        raise UserError(f"--embeddings {source.name}: its checkpoint has no {names.pop()}.")
    return table.detach()


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer; `from_pretrained(folder)` reads them back.

    Raises:
        OSError: when the disk refuses.
    """
    with hushed(), _raising_disk_errors():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        # safetensors keeps them to their owner; every other file has the mode that the umask gives.
        shutil.copymode(folder / "config.json", weights)


@contextmanager
def _raising_disk_errors() -> Iterator[None]:
    """Raise the `OSError` behind what the Rust libraries raise: `SafetensorError`, or a bare `Exception`."""
    try:
        yield
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if isinstance(error, OSError) or not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of the weights by name: the same for the same model wherever it is stored."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Parameters of a model, with and without its input embedding table."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - embedding_table(model).numel()


def embedding_table(model: PreTrainedModel) -> Tensor:
    """Return the input embeddings of a model, float `[vocabulary, width]`."""
    embeddings: Any = model.get_input_embeddings()
    table: Tensor = embeddings.weight
    return table
