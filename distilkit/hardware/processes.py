"""The accelerator: device, mixed precision, processes."""

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradientAccumulationPlugin

from distilkit.errors import UserError
from distilkit.hardware.device import default_device, has_only_mps
from distilkit.hardware.precision import Resolved


def make_accelerator(precision: Resolved) -> Accelerator:
    """Make the Accelerator of a run. Its mixed precision is set only for fp16, to get the gradient scaler.

    The loop and the predictions enter `autocast` themselves: Accelerate would build it into the model.

    Accelerate keeps the mixed precision of the first one for the whole process; a second call of the Python
    API may want another, so that state is dropped here.
    """
    default_device()  # before Accelerate chooses
    AcceleratorState._reset_state()  # noqa: SLF001  # there is no public way
    accelerator = Accelerator(
        cpu=has_only_mps(),
        mixed_precision="fp16" if precision == "fp16" else "no",
        # The loop weighs a step's batches itself; an environment variable of `accelerate launch` must not
        # divide them once more.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    # With one process too: for torchrun, Accelerate wraps the model in DDP, which fails where a loss leaves
    # some of its parameters out.
    if accelerator.distributed_type != DistributedType.NO:
        count = accelerator.num_processes
        raise UserError(
            f"{count} {'process was' if count == 1 else 'processes were'} started by torchrun or "
            "accelerate launch, but distilkit trains in one of its own. Start it without them."
        )
    return accelerator
