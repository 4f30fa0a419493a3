"""`Examination`: what `doctor` knows so far, and the `Diagnosis` it fills."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from distilkit.config import DistillConfig
from distilkit.progress import Reporter
from distilkit.workflows.distillation.recipe import NewTexts
from distilkit.workflows.findings.finding import Finding

SCHEMA = "distilkit.doctor/1"


@dataclass
class Diagnosis:
    """The result of `doctor`.

    Attributes:
        checked: names of the checks that were made.
        skipped: why others were not.
        measured: what the checks counted, by check.
        estimates: what the run would take on `device`.
        recipe: what `--recipe` chooses, with its reasons.
    """

    dataset: str
    device: str
    rows: dict[str, int] = field(default_factory=dict)
    teachers: list[str] = field(default_factory=list)
    student: str = ""
    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    estimates: dict[str, Any] = field(default_factory=dict)
    recipe: list[dict[str, object]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass
class Examination:
    """One run of `doctor`.

    Attributes:
        requested: the options as they were given, with the recipe applied.
        config: the same, resolved, and cut to what models can read.
        new_texts: what the recipe would generate; `None` where it generates nothing.
    """

    requested: DistillConfig
    config: DistillConfig
    device: torch.device
    reporter: Reporter
    diagnosis: Diagnosis
    new_texts: NewTexts | None = None

    def add(self, findings: Iterable[Finding], *checks: str) -> None:
        """Add findings to the diagnosis, and the names of the checks that were made for them."""
        new_checks = [check for check in checks if check not in self.diagnosis.checked]
        self.diagnosis.checked += new_checks
        self.diagnosis.findings += findings
