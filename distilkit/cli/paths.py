"""Find mistakes in paths before a command imports torch, which takes seconds."""

from collections.abc import Iterator
from pathlib import Path

from distilkit.config import (
    AugmentConfig,
    BudgetConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    FitConfig,
    LabelConfig,
    PredictConfig,
    ReportConfig,
    ServeConfig,
    TextsConfig,
    TrainConfig,
    resolve,
)
from distilkit.config.fields import Config
from distilkit.config.student import NAMED_STUDENTS
from distilkit.config.teacher_files import TeacherFileConfig
from distilkit.data.arguments import check_stdin, find_files
from distilkit.data.formats import READABLE
from distilkit.data.layouts import SPLITS, find_splits
from distilkit.data.shards import is_sharded
from distilkit.errors import UserError
from distilkit.runs.checkpoint import check_outputs
from distilkit.runs.exports import check_export_dir
from distilkit.runs.folder import suggest_sibling
from distilkit.runs.locating import find_base_model, find_model
from distilkit.runs.run import Run


def check_paths(config: Config) -> None:
    """Refuse what a look at the file system, and for models at the Hub, shows to be wrong.

    The functions behind the commands check the same: from Python they are called alone.

    Raises:
        UserError: naming the option and the path.
    """
    if isinstance(config, FitConfig) and not isinstance(config, DoctorConfig):
        check_outputs([config])
    if isinstance(config, ExportConfig):
        check_export_dir(config.output_dir, config.overwrite)
    if isinstance(config, TextsConfig) and config.data_dir:
        find_splits(config.data_dir)
    for option, file, advice in (*_input_files(config), *_label_files(config)):
        _check_file(option, Path(file), advice)
    if isinstance(config, AugmentConfig):
        from distilkit.workflows.augmentation.blocks import check_output  # pyarrow is not needed elsewhere

        check_output(config)
    if isinstance(config, PredictConfig):
        find_files(config.inputs)
        if config.reads_stdin:
            check_stdin()
    if isinstance(config, TrainConfig | BudgetConfig) and config.model:
        find_base_model(config.model)
    for name in _model_names(config):
        find_model(name)
    if isinstance(config, ReportConfig):
        for path in config.runs:
            Run.load(path)


def _input_files(config: Config) -> Iterator[tuple[str, str | Path, str]]:
    """Yield the option, the path and the advice for each file that is read."""
    if isinstance(config, EvaluateConfig):
        if config.baseline:
            yield "--baseline", config.baseline, "Give a file that evaluate --json wrote."
        for file in config.predictions:
            yield "--predictions", file, f"Give one of {READABLE}."
    if isinstance(config, TeacherFileConfig):
        for file in config.teacher_file:
            yield "--teacher-file", file, f"Give one of {READABLE}."
    if isinstance(config, DistillConfig | BudgetConfig):
        for file in config.transfer:
            if file not in SPLITS:
                yield "--transfer", file, f"Give a file ({READABLE}, or .txt) or `unsupervised`."
    if isinstance(config, DistillConfig):
        for file in config.corpus:
            if file != "wikitext-103":
                yield "--corpus", file, "Give a .txt file with a paragraph a line, or wikitext-103."


# Options that also take a pattern of files.
SHARDED = ("--transfer", "--teacher-file")


def _label_files(config: Config) -> Iterator[tuple[str, str | Path, str]]:
    """Yield what `_input_files` does, for `label`."""
    if isinstance(config, LabelConfig):
        for name in config.data:
            yield "DATA", name, f"Give a file ({READABLE}, or .txt) or a folder."
        if config.prompt:
            yield "--prompt", config.prompt, "Give a text file with {text} in it."


def _check_file(option: str, file: Path, advice: str) -> None:
    if not file.exists() and not (option in SHARDED and is_sharded(str(file))):
        raise UserError(f"{option} {file}: there is no such file. {suggest_sibling(file) or advice}")


def _model_names(config: Config) -> Iterator[str]:
    """Yield the models that the command will load; `--teacher` may stand there without being read."""
    if isinstance(config, EvaluateConfig):
        references = (config.teacher, config.labels_only)
        not_models = {*config.predictions, *config.teacher_file, *config.endpoint}
        names = [name for name in (*config.models, *references) if name and name not in not_models]
        yield from dict.fromkeys(names)
    if isinstance(config, PredictConfig | ExportConfig | ServeConfig):
        yield config.model
    if isinstance(config, LabelConfig) and config.model:
        yield config.model
    if isinstance(config, BudgetConfig) and config.teacher:
        yield config.teacher
    if isinstance(config, DistillConfig):
        resolved = resolve(config)
        takes_tokenizer = not resolved.has_word_vectors and resolved.init == "random"
        if resolved.runs_teacher or resolved.recipe or resolved.method != "logits":
            yield from config.teacher
        elif resolved.init == "teacher" or resolved.vocabulary == "teacher" or takes_tokenizer:
            yield from config.teacher[:1]
        if config.student not in NAMED_STUDENTS:
            yield config.student
