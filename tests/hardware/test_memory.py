"""How much memory there is: a container's limit counts, and what files fill does not."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distilkit.errors import UserError
from distilkit.hardware import memory

CPU = torch.device("cpu")


def limited(folder: Path, limit: str) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("700\n")
    (folder / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    return folder


def test_a_container_leaves_its_limit_less_what_is_used_but_for_cached_files(tmp_path: Path) -> None:
    assert memory.container_left(tmp_path) is None
    assert memory.container_left(limited(tmp_path, "max")) is None
    assert memory.container_left(limited(tmp_path, "1000")) == 1000 - 700 + 150
    assert memory.container_left(limited(tmp_path, "100")) == 0


def test_the_limit_of_the_container_counts_where_it_is_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run is said to fit, and the container is killed."""
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.available(CPU)
    limited(tmp_path, "1000")
    assert memory.available(CPU) < free - 2**26


def test_the_peak_is_in_bytes_and_sees_a_tensor_that_is_gone() -> None:
    before = memory.peak(CPU)
    assert 2**26 < before < 2**38
    size = max(2**28, before)  # above all that this process ever held
    torch.ones(size // 4)
    assert memory.peak(CPU) > before + 2**27


GAPS = """
import psutil
from distilkit.hardware.memory import trim_heap

held = [bytes(60_000) for _ in range(4_000)]
held = held[::2]
before = psutil.Process().memory_info().rss
trim_heap()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library keeps its memory")
def test_gaps_between_what_is_still_held_are_given_back() -> None:
    """Else what a run holds grows with every size of batch that it has read."""
    result = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    assert int(result.stdout) > 60_000 * 1_000


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_what_cuda_and_its_libraries_say_without_memory_is_recognised(
    error: Exception, expected: bool
) -> None:
    """Else a run that a smaller batch would save ends in a traceback."""
    assert memory.is_out_of_memory(error) is expected


def test_the_explanation_names_the_librarys_error_in_one_line() -> None:
    error = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later.")
    with pytest.raises(UserError) as explained, memory.explain_out_of_memory("Do this."):
        raise error
    assert str(explained.value) == "CUDA error: out of memory. Do this."
    with pytest.raises(RuntimeError, match="shapes"), memory.explain_out_of_memory("Do this."):
        raise RuntimeError("shapes differ")
