"""A run: the folder that `train` and `distill` leave behind, written whole or not at all.

config.yaml        resolved; repeats the run
model/             config.json, model.safetensors, tokenizer: the best epoch
history.jsonl      a line per epoch
metrics.json       best epoch, validation metrics, calibration, parameters, bytes, seconds
environment.json   command line, versions, device, seed, data and teacher fingerprints, start and end
evaluation/        what `evaluate` measured, one JSON file per dataset and split
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from distilkit.config import DistillConfig, TrainConfig
from distilkit.config.fields import dump_values, make_config, read_values, replace_values
from distilkit.errors import UserError, list_names
from distilkit.runs.folder import check_folder, write_text, writing_folder
from distilkit.runs.records import Environment, EpochRecord, Record, RunMetrics

AnyRecord = TypeVar("AnyRecord", bound=Record)

MODEL, CONFIG, METRICS = "model", "config.yaml", "metrics.json"


HISTORY, ENVIRONMENT, EVALUATION = "history.jsonl", "environment.json", "evaluation"


ENTRIES = frozenset((MODEL, CONFIG, METRICS, HISTORY, ENVIRONMENT, EVALUATION))  # all that a run holds
# What transformers writes into a model's folder: config, weights and the files of any tokenizer.
MODEL_SUFFIXES = frozenset(
    (
        *(".json", ".safetensors", ".txt", ".model", ".jinja", ".spm", ".codes", ".bpe", ".vocab"),
        *(".tokenizer", ".tiktoken"),
    )
)
MODEL_FOLDERS = frozenset(("additional_chat_templates",))
MODEL_OPTIONS = frozenset(("--model", "--teacher", "--student"))


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder on demand."""

    path: Path

    @classmethod
    def load(cls, path: Path | str) -> "Run":
        """Return the run in `path`. Raises `UserError` when `path` holds none."""
        run = cls(Path(path))
        missing = [name for name in (CONFIG, METRICS, ENVIRONMENT, MODEL) if not (run.path / name).exists()]
        if missing:
            raise UserError(
                f"{path} is not a run: it has no {missing[0]}. Give a folder that train or distill wrote."
            )
        return run

    def moved_to(self, path: Path) -> "Run":
        """Return the run at `path` with the records of this folder, which are read now and not there.

        Another run may take its place there, and its figures would be printed as those of this one.
        """
        moved = Run(path)
        # Where `cached_property` looks, which reads nothing then.
        for name in ("environment", "config", "metrics", "history"):
            moved.__dict__[name] = getattr(self, name)
        return moved

    @property
    def model_path(self) -> Path:
        """Return the Hugging Face folder of the best epoch."""
        return self.path / MODEL

    @cached_property
    def config(self) -> TrainConfig | DistillConfig:
        """Return the resolved configuration the run was made with."""
        values = read_values(self.path / CONFIG)
        config_type: Any = DistillConfig if self.environment.get("command") == "distill" else TrainConfig
        config: TrainConfig | DistillConfig = make_config(config_type, values, source=str(self.path / CONFIG))
        return config

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Return the content of `metrics.json`; `read_metrics` returns it typed."""
        return _read_json(self.path / METRICS)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Return the content of `environment.json`; `read_environment` returns it typed."""
        return _read_json(self.path / ENVIRONMENT)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """Return a dict per line of `history.jsonl`, in order; `read_history` returns them typed."""
        return [_parse(line, self.path / HISTORY) for line in _read(self.path / HISTORY).splitlines()]

    def read_metrics(self) -> RunMetrics:
        """Read `metrics.json`. Raises `UserError` when it is damaged."""
        return _validate(RunMetrics, _read(self.path / METRICS), self.path / METRICS)

    def read_environment(self) -> Environment:
        """Read `environment.json`. Raises `UserError` when it is damaged."""
        return _validate(Environment, _read(self.path / ENVIRONMENT), self.path / ENVIRONMENT)

    def read_history(self) -> list[EpochRecord]:
        """Read `history.jsonl`, a record per epoch. Raises `UserError` when it is damaged."""
        file = self.path / HISTORY
        return [_validate(EpochRecord, line, file) for line in _read(file).splitlines()]


def is_run(path: Path) -> bool:
    """Return whether `path` looks like a run folder, complete or not."""
    return (path / CONFIG).is_file() and (path / MODEL).is_dir()


def check_output_dir(output_dir: Path, overwrite: bool, inputs: Mapping[str, Sequence[Path]] = {}) -> None:
    """Refuse early, before any work, an `output_dir` that could not receive a run.

    Args:
        inputs: the files and folders that are read, by the option that names them; they are never replaced.

    Raises:
        UserError: when it holds something (other than a run that `overwrite` may replace) or cannot be made.
    """

    def check_contents() -> None:
        if not overwrite:
            raise UserError(
                f"--output-dir {output_dir} is not empty. "
                "Name another folder, or replace it with --overwrite."
            )
        if not is_run(output_dir):
            raise UserError(
                f"--output-dir {output_dir} holds no run, so --overwrite will not delete it. "
                "Name another folder."
            )
        _check_inputs(output_dir, inputs)
        if foreign := _foreign_entries(output_dir):
            raise UserError(
                f"--output-dir {output_dir} holds a run and {list_names(foreign)}, which "
                "--overwrite would delete with it. Move that away, or name another folder."
            )

    check_folder(output_dir, "--output-dir", check_contents)


def _check_inputs(output_dir: Path, inputs: Mapping[str, Sequence[Path]]) -> None:
    """Refuse to replace what is read: a model in or around the folder, or data in it."""
    output = output_dir.resolve()
    for option, paths in inputs.items():
        for path in paths:
            read = path.resolve()
            if read.name == MODEL and is_run(read.parent):
                read = read.parent
            # Data around the folder stays as it is: `--data-dir . -o runs/student` is fine.
            if read.is_relative_to(output) or (option in MODEL_OPTIONS and output.is_relative_to(read)):
                raise UserError(
                    f"--output-dir {output_dir}: {option} {path} is read from there, so --overwrite will "
                    "not replace it. Name another folder."
                )


def _foreign_entries(folder: Path) -> list[str]:
    """Return what a folder holds beside what a run writes, as paths from there."""
    foreign = [path for path in folder.iterdir() if path.name not in ENTRIES]
    foreign += [path for path in _list_folder(folder / EVALUATION) if path.suffix != ".json"]
    foreign += [
        path
        for path in _list_folder(folder / MODEL)
        if (path.name not in MODEL_FOLDERS if path.is_dir() else path.suffix not in MODEL_SUFFIXES)
    ]
    return sorted(str(path.relative_to(folder)) for path in foreign if path.name != ".DS_Store")


def _list_folder(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


@contextmanager
def writing(output_dir: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a folder for a run, which becomes `output_dir` when the block ends well and else disappears.

    Raises:
        UserError: as `check_output_dir`, or when the disk refuses.
    """
    check = partial(check_output_dir, output_dir, overwrite)
    with writing_folder(output_dir, "--output-dir", "run", check) as draft:
        yield draft


def write_config(folder: Path, config: TrainConfig | DistillConfig) -> None:
    """Write the resolved `config`, from which `--config` repeats the run."""
    # Repeating a run must not replace it or go on with another: both have to be typed each time.
    write_text(folder / CONFIG, dump_values(replace_values(config, overwrite=False, resume=False)))


def _read_json(file: Path) -> dict[str, Any]:
    return _parse(_read(file), file)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(f"{file} cannot be read: {error}") from None


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{file} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise _damaged(f"{file} does not hold a JSON object")
    return value


def _validate(record_type: type[AnyRecord], text: str, file: Path) -> AnyRecord:
    try:
        return record_type.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise _damaged(f"{file} cannot be read: {key + ': ' if key else ''}{problem['msg']}") from None


def _damaged(problem: str) -> UserError:
    return UserError(f"{problem}. The run is damaged; train it again.")
