"""Findings on cost: memory and time."""

from collections.abc import Iterator

from distilkit.workflows.findings.finding import Finding

DAY = 86_400.0  # seconds


# --- cost -----------------------------------------------------------------------------------------------


def memory_needed(device: str, required: int, available: int) -> Iterator[Finding]:
    """Bytes that there are not."""
    if required > available:
        yield Finding(
            "memory",
            "error",
            f"some {required / 2**30:.1f} GiB are needed on the {device}, "
            f"and {available / 2**30:.1f} are free",
            "The run would fail, or the machine would stall, once they are used up.",
            "a lower --batch-size (with --gradient-accumulation-steps for the same steps) or --max-length",
        )


def memory_exceeded(problem: str) -> Finding:
    """Memory that ran out while a few batches were timed."""
    return Finding(
        "memory",
        "error",
        f"a batch of the longest rows does not fit: {problem.partition('. ')[0]}",
        "The run would end there.",
        "a lower --batch-size (with --gradient-accumulation-steps for the same steps) or --max-length",
    )


def time_needed(seconds: float) -> Iterator[Finding]:
    """Warn of a run of days."""
    if seconds > DAY:
        yield Finding(
            "time",
            "warning",
            f"the run would take some {seconds / DAY:.1f} days here",
            "Most of what there is to learn is learned in much less.",
            "--student bilstm, fewer --epochs, --max-train-samples N, or a machine with a GPU",
        )
