"""A checkpoint: the state of a training that is not complete, in `<output_dir>.checkpoint`.

<output_dir>.checkpoint/
  <i>/                 the i-th that was written; the last whole one counts, and replaces those before it
    state.safetensors    weights, moments, random states, sums of losses
    state.json           `CheckpointState`: position, history, options, versions
    best.safetensors     the weights of the best epoch, once there is one

A folder is written under another name, synced and renamed: a kill leaves the old one or the new one.
"""

from collections.abc import Sequence
from pathlib import Path

from distilkit.config import FitConfig
from distilkit.errors import UserError
from distilkit.runs.run import check_output_dir, is_run


def checkpoint_folder(output_dir: Path) -> Path:
    """Return where the checkpoints of a run lie until it is complete."""
    output = output_dir.resolve()
    return output.with_name(output.name + ".checkpoint")


def find_checkpoint(output_dir: Path) -> Path | None:
    """Return the folder of the last whole checkpoint of a run, `None` where there is none."""
    try:
        numbered = [path for path in checkpoint_folder(output_dir).iterdir() if path.name.isdecimal()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return max(numbered, key=lambda path: int(path.name), default=None)


def is_finished(config: FitConfig) -> bool:
    """Return whether a run that is resumed is complete, and nothing is left of its training."""
    return config.resume and is_run(config.output_dir) and find_checkpoint(config.output_dir) is None


def check_outputs(configs: Sequence[FitConfig]) -> None:
    """Refuse early, before any work, what cannot receive runs: folders, and checkpoints that must stay.

    Of several students that are resumed, those without a checkpoint start from the beginning, and those whose
    run is complete keep it.

    Raises:
        UserError: as `check_output_dir`; where there is a checkpoint and no --resume, or the reverse.
    """
    checkpoints = [find_checkpoint(config.output_dir) for config in configs]
    for config, checkpoint in zip(configs, checkpoints, strict=True):
        output_dir = config.output_dir
        if config.resume and not any(checkpoints):
            advice = f"The run in {output_dir} is complete." if is_run(output_dir) else "Leave --resume out."
            raise UserError(f"--resume: {checkpoint_folder(output_dir)} holds no checkpoint. {advice}")
        if is_finished(config) and len(configs) > 1:
            continue
        check_output_dir(output_dir, config.overwrite, config.input_paths)
        if checkpoint and not (config.resume or config.overwrite):
            raise UserError(
                f"--output-dir {output_dir}: {checkpoint.parent} holds a checkpoint of a command that was "
                "stopped. Go on with --resume, or drop it with --overwrite."
            )
