"""`CheckpointFolder`: the files of a checkpoint, and what must be the same when it is gone on with."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distilkit.config.fields import clip, flag
from distilkit.errors import UserError
from distilkit.runs.checkpoint import checkpoint_folder, find_checkpoint
from distilkit.runs.folder import sync
from distilkit.runs.records import CheckpointState, TrainingIdentity, TrainingMachine

STATE, TENSORS, BEST = "state.json", "state.safetensors", "best.safetensors"
LOCK, UNFINISHED = ".lock", ".unfinished"

Tensors = Mapping[str, Tensor]


class CheckpointFolder:
    """Write, read and at last remove the checkpoints of one run, as `runs/checkpoint.py` says.

    Args:
        output_dir: of the run.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = checkpoint_folder(output_dir)
        self.latest = find_checkpoint(output_dir)
        self._latest_best = ""  # `best_key` of the latest

    @contextmanager
    def open(self, *, resume: bool) -> Iterator[None]:
        """Lock the folder for the block; remove it when that ends well, or when it holds no checkpoint.

        Args:
            resume: whether the latest checkpoint stays.

        Raises:
            UserError: when another process writes it, or the disk refuses.
        """
        missing = [parent for parent in self.path.parents if not parent.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / LOCK, timeout=0):  # the folder is removed under the lock
                self.latest = self.latest if resume else None
                self._clean()
                try:
                    yield
                except BaseException:
                    if self.latest is None:
                        shutil.rmtree(self.path, ignore_errors=True)
                    raise
                shutil.rmtree(self.path, ignore_errors=True)
        except Timeout:
            raise UserError(f"{self.path}: another process is writing it. Wait for it.") from None
        finally:
            with suppress(OSError):  # they hold something, or were there before
                for parent in missing:
                    parent.rmdir()

    def _clean(self) -> None:
        """Remove all but the latest checkpoint."""
        for path in self.path.iterdir():
            if path != self.latest and (path.name.isdecimal() or path.name.endswith(UNFINISHED)):
                shutil.rmtree(path)

    def read(self) -> tuple[CheckpointState, dict[str, Tensor], dict[str, Tensor]]:
        """Return the state of the latest checkpoint, its tensors, and those of the best epoch.

        Raises:
            UserError: when it is damaged.
        """
        assert self.latest
        try:
            state = CheckpointState.model_validate_json((self.latest / STATE).read_text(encoding="utf-8"))
            tensors = load_file(self.latest / TENSORS)
            best = load_file(self.latest / BEST) if state.best_key else {}
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"--resume: the checkpoint in {self.latest} is damaged ({str(error).splitlines()[0]}). "
                "Start again: replace --resume by --overwrite."
            ) from None
        self._latest_best = state.best_key
        return state, tensors, best

    def write(self, state: CheckpointState, tensors: Tensors, best: Tensors) -> None:
        """Write a checkpoint, which is on the disk when this returns and replaces the one before.

        Raises:
            UserError: when the disk refuses. The one before stays.
        """
        count = int(self.latest.name) + 1 if self.latest else 1
        draft = self.path / f"{count}{UNFINISHED}"
        try:
            draft.mkdir()
            save_file(separate(tensors), draft / TENSORS)
            if state.best_key and (state.best_key != self._latest_best or not self._link_best(draft)):
                save_file(separate(best), draft / BEST)
            (draft / STATE).write_text(state.model_dump_json(indent=1), encoding="utf-8")
            for path in (*draft.iterdir(), draft):
                sync(path)
            written = draft.rename(self.path / str(count))
            sync(self.path)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError | SafetensorError):
                reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
                raise UserError(
                    f"no checkpoint can be written to {self.path}: {reason}. The training ends here."
                ) from None
            raise
        if self.latest:
            shutil.rmtree(self.latest, ignore_errors=True)
        self.latest, self._latest_best = written, state.best_key

    def _link_best(self, draft: Path) -> bool:
        """Take over the best weights from the checkpoint before; return whether that is possible."""
        assert self.latest
        try:
            os.link(self.latest / BEST, draft / BEST)
        except OSError:  # of a file system without links
            return False
        return True


def separate(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors on the CPU, each in memory of its own: the format refuses what is shared."""
    separated: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        storage = values.untyped_storage().data_ptr()
        separated[name] = values.clone() if storage in seen else values
        seen.add(storage)
    return separated


def check_identity(before: TrainingIdentity, now: TrainingIdentity, path: Path) -> None:
    """Refuse to go on with the training of another command.

    Raises:
        UserError: naming what differs.
    """
    differing = [
        f"{flag(name)} {clip(before.config.get(name))}, now {clip(value)}"
        for name, value in now.config.items()
        if before.config.get(name) != value
    ]
    splits = sorted(before.dataset.keys() | now.dataset.keys())
    differing += [
        f"the rows of the split {split}"
        for split in splits
        if before.dataset.get(split) != now.dataset.get(split)
    ]
    differing += [
        f"the {name} (in environment.json)"
        for name, value in now.facts.items()
        if before.facts.get(name) != value
    ]
    if not differing and before != now:
        differing = [f"the loss {before.loss!r}, now {now.loss!r}"]
    if differing:
        raise UserError(
            f"--resume: the checkpoint in {path} is of another training: {'; '.join(differing[:8])}. Repeat "
            "its command, or start again: replace --resume by --overwrite."
        )


def describe_differences(before: TrainingMachine, now: TrainingMachine) -> list[str]:
    """Return in words what may change the last bits of a result."""
    names = sorted(before.versions.keys() | now.versions.keys())
    pairs: list[tuple[str, object, object]] = [
        (name, before.versions.get(name), now.versions.get(name)) for name in names
    ]
    pairs += [("threads", before.threads, now.threads), ("device", before.device, now.device)]
    return [f"{name} {old}, now {new}" for name, old, new in pairs if old != new]


def load_sums(tensors: Tensors, unmeasured: list[str], device: torch.device) -> dict[str, Tensor | None]:
    """Return the sums of an epoch's losses; `None` for those that are not computed."""
    prefix = "sums."
    sums: dict[str, Tensor | None] = dict.fromkeys(unmeasured)
    return sums | {
        name.removeprefix(prefix): value.to(device)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
