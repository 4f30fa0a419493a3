"""Options on which texts are read, and how much of them."""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, model_validator

from distilkit.config.fields import Config, OptionalPath, option, replace_values

Dataset = Literal["sst2", "mrpc", "imdb", "rotten_tomatoes"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _check_device(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError("use cpu, cuda, or one of several GPUs, such as cuda:1")
    return name


Device = Annotated[str | None, AfterValidator(_check_device)]
DEVICE_HELP = "cpu, cuda or cuda:N. (default: CUDA where there is some, else cpu)"


class TextsConfig(Config):
    """Where texts come from; shared by every command that reads some."""

    dataset: Dataset | None = option(
        None,
        panel="Data",
        short="-d",
        basic=True,
        help="Known dataset: its columns, label names and metric. From the Hub unless --data-dir is given.",
    )
    data_dir: OptionalPath = option(
        None,
        panel="Data",
        basic=True,
        help="Folder with train, validation, test as .parquet, .csv, .tsv or .jsonl; or one file of rows.",
    )
    text_column: str | None = option(
        None, panel="Data", basic=True, help="Column with the text. (default: the dataset's, else text)"
    )
    text_pair_column: str | None = option(
        None,
        panel="Data",
        help="Column with the second text of a pair. (default: the dataset's, else none)",
    )
    label_column: str | None = option(
        None, panel="Data", basic=True, help="Column with the label. (default: the dataset's, else label)"
    )

    @model_validator(mode="after")
    def _has_data(self) -> "TextsConfig":
        if not self.has_dataset:
            self._check_without_dataset()
        return self

    def _check_without_dataset(self) -> None:
        raise ValueError("no data: give --dataset (sst2, mrpc, imdb, rotten_tomatoes) or --data-dir DIR")

    @property
    def has_dataset(self) -> bool:
        """Return whether there is a dataset to read."""
        return self.dataset is not None or self.data_dir is not None

    @property
    def is_pair(self) -> bool:
        """Return whether an example is two texts."""
        return self.text_pair_column is not None or self.dataset == "mrpc"

    @property
    def data_name(self) -> str:
        """Return what reports call the data: the dataset's name, else that of the folder or the file."""
        if self.dataset:
            return self.dataset
        assert self.data_dir is not None
        path = self.data_dir.resolve()
        return path.name.partition(".")[0] or path.name if path.is_file() else path.name

    def dependent_defaults(self) -> dict[str, Any]:
        """Return what the options that are `None` stand for, given the others."""
        return {}


class DataConfig(TextsConfig):
    """What a model reads of the texts, and how much of them it is evaluated on."""

    max_length: int | None = option(
        None,
        ge=4,
        panel="Data",
        help="Longest input in tokens; the rest is cut. (default: 256 for imdb, else 128)",
    )
    max_eval_samples: int | None = option(
        None,
        ge=1,
        panel="Data",
        help="Evaluate on a stratified sample of N rows, the same for every seed.",
    )


AnyTexts = TypeVar("AnyTexts", bound=TextsConfig)


def resolve(config: AnyTexts) -> AnyTexts:
    """Return `config` with every default that depends on other options filled in."""
    defaults = config.dependent_defaults()
    return replace_values(
        config, **{name: value for name, value in defaults.items() if getattr(config, name) is None}
    )
