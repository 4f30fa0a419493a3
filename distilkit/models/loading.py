"""From what a person types to a model: a run, a folder, a Hub id, or the short name `minilm`."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
import torch
import transformers
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
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER as LARGEST

from distilkit.data.encoding import (
    Tokenizer,
    count_embeddings,
    count_padding_positions,
    encode,
    longest_input,
)
from distilkit.data.texts import Texts
from distilkit.errors import UserError
from distilkit.hardware.dropout import eval_mode
from distilkit.models.checkpoints import (
    LoadedModel,
    check_finite,
    check_head,
    check_task,
    compare_with_checkpoint,
)
from distilkit.models.folder_faults import (
    MAX_REASON,
    check_config_file,
    check_tokenizer_file,
    check_weight_types,
    explain_failure,
)
from distilkit.models.heads import config_names, label_config, reorder_head
from distilkit.runs.locating import Source

# Code that comes with a model is never run, and the terminal never asks whether it should be.
NO_REMOTE_CODE: dict[str, Any] = {"trust_remote_code": False}
PROBE, PROBE_LENGTH = "a text that every model can answer", 16  # tokens at most; CANINE wants four or more
PANIC = "PanicException"  # of Rust code; no subclass of `Exception`
LENGTH_BEFORE_TRAINING = "model_max_length_before_training"  # of a saved tokenizer's config
SAVING = Lock()  # lanes share a tokenizer, whose settings differ while it is saved


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
def _explaining(source: Source, what: str) -> Iterator[None]:
    """Turn what a damaged or foreign folder makes of transformers into one clear error."""
    try:
        with hushed():
            yield
    except UserError:
        raise
    # Weights, configs and tokenizers are parsed by six libraries, whose errors have no common base class.
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise explain_failure(source, what, error) from None


def load_config(source: Source) -> Any:
    """Load the `PreTrainedConfig` of a model, without the options that change what the model returns."""
    with _explaining(source, "config.json"):
        check_config_file(source)
        config = AutoConfig.from_pretrained(source.folder, **NO_REMOTE_CODE)
        config.return_dict = True
        config.output_attentions = config.output_hidden_states = False
    return config


def load_tokenizer(source: Source) -> Tokenizer:
    """Load the tokenizer of a model.

    Raises:
        UserError: when there is none that can pad, or its config is damaged.
    """
    with _explaining(source, "tokenizer"):
        check_config_file(source)  # from which transformers reads which tokenizer it is
        check_tokenizer_file(source)
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(source.folder, **NO_REMOTE_CODE)
        _check_tokenizer(source, tokenizer)
        tokenizer("a")  # a vocabulary and a template that do not fit show in the first text
    limit = tokenizer.init_kwargs.get(LENGTH_BEFORE_TRAINING)
    if isinstance(limit, int):
        tokenizer.model_max_length = limit
    return tokenizer


def _check_tokenizer(source: Source, tokenizer: Tokenizer) -> None:
    # Where there are no files, transformers may make up a tokenizer of special tokens alone.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(
            f"{source.name}: it has no tokenizer that can pad. Put its tokenizer files into {source.folder}."
        )
    if tokenizer.pad_token_id is None:
        token = "eos_token" if tokenizer.eos_token_id is not None else "unk_token"
        raise UserError(
            f"{source.name}: its tokenizer has no pad token, so that texts cannot share a batch. Set one, in "
            f"Python: t = transformers.AutoTokenizer.from_pretrained({str(source.folder)!r}); "
            f"t.pad_token = t.{token}; t.save_pretrained({str(source.folder)!r})"
        )
    tokenizer.model_max_length = min(int(min(tokenizer.model_max_length, LARGEST)), LARGEST)


def match_tokenizer(model: PreTrainedModel, tokenizer: Tokenizer, name: str) -> None:
    """Hold a model and its tokenizer against each other: the model learns which id is padding.

    A decoder's head takes the last token that is not `config.pad_token_id`: with another id there, padding
    would be its answer.

    Raises:
        UserError: when the model has no embedding for padding.
    """
    pad, rows = tokenizer.pad_token_id, count_embeddings(model)
    assert isinstance(pad, int)
    if rows is not None and pad >= rows:
        raise UserError(
            f"{name}: its tokenizer pads with {str(tokenizer.pad_token)[:40]!r}, id {pad}, but its embedding "
            f"table has {rows:,} rows, for ids below {rows}. Set the pad_token in its tokenizer_config.json "
            "to a token that the model knows."
        )
    if not count_padding_positions(model):  # those are counted from the id that it was made with
        for config in (model.config, model.config.get_text_config()):
            if getattr(config, "pad_token_id", None) != pad:
                config.pad_token_id = pad
    _answer_once(model, tokenizer, name)


def _answer_once(model: PreTrainedModel, tokenizer: Tokenizer, name: str) -> None:
    """Answer a short text: what is wrong with sizes that nothing checks shows here, and not hours later."""
    max_length = min(PROBE_LENGTH, longest_input(tokenizer, model) or PROBE_LENGTH)
    row = encode(tokenizer, Texts([PROBE]), max_length=max_length, model=model).to(model.device)
    try:
        with eval_mode(model), torch.no_grad():  # what a model keeps of it must be fit for training
            shape = tuple(model(**row.inputs(np.zeros(1, np.int64))).logits.shape)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:MAX_REASON]
        raise UserError(
            f"{name}: it cannot answer a text, so its config.json may be damaged. {reason}"
        ) from None
    classes = len(model.config.id2label or ())
    if shape != (1, classes):
        raise UserError(
            f"{name}: it answers a text with {' x '.join(map(str, shape))} numbers, and not with one for "
            f"each of {classes} classes."
        )


def load_trained(source: Source) -> PreTrainedModel:
    """Load a classifier that is already fine-tuned, in eval mode. Raises `UserError` as `load_fine_tuned`."""
    return load_fine_tuned(source).model


def load_fine_tuned(source: Source) -> LoadedModel:
    """Load a classifier that is already fine-tuned, in eval mode, and list what it does not use.

    Raises:
        UserError: when the folder cannot be loaded or its classification head was never trained.
    """
    config = load_config(source)
    check_task(source.name, config)
    config_names(config, source.name)
    loaded, report = _load_classifier(source, config)
    check_head(source.name, loaded.model, report)
    if loaded.new:
        raise UserError(
            f"{source.name} is not fine-tuned: its checkpoint has no {loaded.new[0]}. "
            f"Fine-tune it first: distilkit train --model {source.name}"
        )
    loaded.model.eval()
    return loaded._replace(unused=[key for key in sorted(report["unexpected_keys"]) if ".pooler." not in key])


def load_pretrained(source: Source, names: Sequence[str]) -> PreTrainedModel:
    """Load an encoder as pre-training left it, in eval mode; its head, if any, is meaningless.

    Raises:
        UserError: when the folder cannot be loaded or does not hold all of the encoder.
    """
    model = load_for_training(source, names).model
    model.eval()
    return model


def load_for_training(source: Source, names: Sequence[str], config: Any = None) -> LoadedModel:
    """Load a model to fine-tune on classes `names`.

    A trained head for the same classes in another order is put into theirs; one for another number of
    classes is replaced by a new one.

    Raises:
        UserError: when the folder cannot be loaded, does not hold all of the encoder, or holds NaN.
    """
    config = load_config(source) if config is None else config
    trained_names = config_names(config, source.name)
    loaded, _ = _load_classifier(source, label_config(config, names))
    check_finite(source.name, loaded.model)
    if not loaded.new:
        reorder_head(loaded.model, trained_names, names)
    return loaded


def _load_classifier(source: Source, config: Any) -> tuple[LoadedModel, dict[str, Any]]:
    """Load a classifier with `config`, and the report of transformers on its weights."""
    check_weight_types(source)
    with _explaining(source, "model"):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source.folder,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **NO_REMOTE_CODE,
        )
    return compare_with_checkpoint(source.name, model, report), report


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
        with _explaining(source, "model"):
            model, report = AutoModelForMaskedLM.from_pretrained(
                source.folder, output_loading_info=True, dtype=torch.float32, **NO_REMOTE_CODE
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
    with _explaining(source, "model"):
        model, report = AutoModel.from_pretrained(
            source.folder, output_loading_info=True, dtype=torch.float32, **NO_REMOTE_CODE
        )
    table = embedding_table(model)
    names = {name for name, parameter in model.named_parameters() if parameter is table}
    if names & set(report["missing_keys"]):
        raise UserError(f"--embeddings {source.name}: its checkpoint has no {names.pop()}.")
    return table.detach()


def save_model(
    model: PreTrainedModel, tokenizer: Tokenizer, folder: Path, max_length: int | None = None
) -> None:
    """Write weights (safetensors), config and tokenizer; `from_pretrained(folder)` reads them back.

    Args:
        max_length: how many tokens of a text the model was trained with: whoever loads the tokenizer cuts
            texts there. distilkit itself goes on to read what the model can (`load_tokenizer`).

    Raises:
        OSError: when the disk refuses.
    """
    with SAVING, hushed(), _raising_disk_errors(), _as_saved(tokenizer, max_length):
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


@contextmanager
def _as_saved(tokenizer: Tokenizer, max_length: int | None) -> Iterator[None]:
    """Give a tokenizer the settings that are saved, and put its own back afterwards."""
    settings, limit = dict(tokenizer.init_kwargs), tokenizer.model_max_length
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = (backend.truncation, backend.padding) if backend else (None, None)
    if max_length is not None and max_length < limit:
        tokenizer.init_kwargs[LENGTH_BEFORE_TRAINING] = limit
        tokenizer.model_max_length = max_length
    if tokenizer.truncation_side != "right":  # otherwise only the state of the last call would tell
        tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side
    if backend:
        backend.no_truncation()
        backend.no_padding()
    try:
        yield
    finally:
        tokenizer.init_kwargs, tokenizer.model_max_length = settings, limit
        if truncation:
            backend.enable_truncation(**truncation)
        if padding:
            backend.enable_padding(**padding)


def check_savable(model: PreTrainedModel, folder: Path) -> None:
    """Find out, before any training, whether the model's config can be saved.

    Args:
        folder: a temporary folder is made in it.

    Raises:
        UserError: when transformers refuses to write the config.
    """
    with TemporaryDirectory(dir=folder) as draft:
        try:
            model.config.save_pretrained(draft)
        except OSError:
            raise
        except Exception as error:
            raise UserError(f"the config of this {type(model).__name__} cannot be saved. {error}") from None


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of the weights by name: the same for the same model wherever it is stored."""
    digest = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Count the parameters of a model, with and without its input embedding table."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total - (embedding_table(model).numel() if count_embeddings(model) else 0)


def embedding_table(model: PreTrainedModel) -> Tensor:
    """Return the input embeddings of a model, float `[vocabulary, width]`."""
    embeddings: Any = model.get_input_embeddings()
    table: Tensor = embeddings.weight
    return table
