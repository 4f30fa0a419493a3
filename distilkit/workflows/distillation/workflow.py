"""`distill`: train students on the teachers' logits and the labels."""

from collections.abc import Sequence

from distilkit.config import DistillConfig
from distilkit.config.fields import field_infos, flag
from distilkit.config.fitting import HARDWARE_FIELDS
from distilkit.errors import UserError
from distilkit.hardware.device import select_device
from distilkit.progress import SILENT, DistinctReporter, Reporter
from distilkit.runs.checkpoint import check_outputs
from distilkit.runs.run import Run
from distilkit.workflows.distillation import recipe
from distilkit.workflows.distillation.general import distill_general
from distilkit.workflows.distillation.inputs import DistillationInputs, gather_inputs
from distilkit.workflows.distillation.scheduling import results_or_raise, train_each


def distill(config: DistillConfig, reporter: Reporter = SILENT) -> Run:
    """Train `config.student` with `alpha * CE(labels) + (1 - alpha) * MSE(teachers' mean logits)`.

    With `soft_loss="kl"` the KL divergence at a temperature replaces the MSE.

    A teacher reads a row once, however often it is distilled: its logits are cached on disk. At `alpha=1` it
    does not run. The validation split picks the best epoch; the test split is never opened.

    The methods `tinybert` and `pkd` also match layers with a teacher that runs along with the student;
    `general` (`distill_general`) matches layers and nothing else.

    Returns:
        The run in `config.output_dir`.

    Raises:
        UserError: on anything wrong with the options, the data, the models or the output folder.
    """
    if config.method == "general":
        return distill_general(config, reporter)
    return distill_many([config], reporter)[0]


def distill_many(configs: Sequence[DistillConfig], reporter: Reporter = SILENT) -> list[Run]:
    """Distill several students that differ in alpha, in seed or in how they are trained.

    Data, encoding and teacher logits are shared; every run equals what `distill` makes of its config alone.
    On a CPU, BiLSTMs train side by side, one per core. On CUDA, four or more that differ only in alpha and
    seed are computed as one model (equal up to rounding; not in fp16). All others train one after another.

    Args:
        configs: equal but for fields of the panels Loss, Training and Output; equal in `device` and
            `precision` too.

    Returns:
        The runs, in the order of `configs`.

    Raises:
        UserError: as `distill`, naming each student that failed; the others finish first.
    """
    return results_or_raise(configs, train_each(prepare_inputs(configs, reporter), reporter))


def prepare_inputs(configs: Sequence[DistillConfig], reporter: Reporter) -> DistillationInputs:
    """Return what `distill_many` trains from: checked options, data, encoded rows and teacher logits.

    Raises:
        UserError: as `distill_many`.
    """
    _check_shared_options(configs)
    if any(config.method == "general" for config in configs):
        raise UserError("--method general makes one student at a time. Distill these one after the other.")
    check_outputs(configs)
    select_device(configs[0].device, reporter)
    has_recipe = any(config.recipe for config in configs)
    if has_recipe:  # it reads the data that the training reads again
        reporter = DistinctReporter(reporter)
    home = configs[0].output_dir.parent  # texts that a recipe generates lie next to the first run
    configs = [recipe.apply_recipe(config, home, reporter) if config.recipe else config for config in configs]
    _check_shared_options(configs)  # again: at alpha 1 the recipe adds no text
    return gather_inputs(configs, reporter, announces_time=has_recipe)


def _check_shared_options(configs: Sequence[DistillConfig]) -> None:
    if not configs:
        raise UserError("there is nothing to distill: give at least one config")
    for name, info in field_infos(DistillConfig).items():
        if info.json_schema_extra["panel"] in ("Loss", "Training", "Output") and name not in HARDWARE_FIELDS:
            continue
        values = [getattr(config, name) for config in configs]
        if different := [value for value in values if value != values[0]]:
            raise UserError(
                f"students that are distilled together share {flag(name)}, but here it is {values[0]!r} and "
                f"{different[0]!r}. Distill these one after the other."
            )
    folders = [config.output_dir.resolve() for config in configs]
    if repeated := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(f"--output-dir {repeated[0]} is given for two students. Name a folder for each.")
