"""Run `fit`: find the cheapest student that meets limits on latency, size and quality."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilkit.config import EvaluateConfig, TrainConfig
from distilkit.config.budgeting import BudgetConfig
from distilkit.config.evaluation import Split
from distilkit.errors import GateMissed, UserError
from distilkit.hardware.device import select_device
from distilkit.models.classifier import Classifier, load_classifier
from distilkit.models.loading import load_config
from distilkit.progress import SILENT, Reporter
from distilkit.reports.budget_document import (
    BudgetCost,
    BudgetDocument,
    BudgetEntry,
    BudgetQuality,
    BudgetTeacher,
    Form,
    Limits,
    list_missed,
)
from distilkit.reports.budget_page import write_budget_report
from distilkit.reports.budget_verdict import describe_cost, describe_quality, write_verdict
from distilkit.reports.document import EvaluationDocument, ModelEntry
from distilkit.runs.locating import find_model
from distilkit.runs.run import Run
from distilkit.workflows.budgeting.candidates import (
    FORMS,
    TRAINING_OPTIONS,
    Candidate,
    export_form,
    make_distill_config,
    measure_candidate,
    name_student,
    take_options,
)
from distilkit.workflows.budgeting.folder import EXPORTED, REPORT, RUNS, TEACHER, BudgetFolder
from distilkit.workflows.distillation.workflow import distill
from distilkit.workflows.evaluation.workflow import evaluate
from distilkit.workflows.exporting.workflow import check_onnx
from distilkit.workflows.training import train


@dataclass(frozen=True)
class BudgetResult:
    """Hold what a search found, and the page of it."""

    page: Path
    typed_document: BudgetDocument

    @property
    def path(self) -> Path | None:
        """Return the folder of the chosen student, exported; `None` where none meets the limits."""
        document = self.typed_document
        if document.chosen is None:
            return None
        folder = document.entry(document.chosen).folder
        return self.page.parents[1] / folder if folder else None

    def document(self) -> dict[str, Any]:
        """Return the versioned JSON document."""
        return self.typed_document.as_dict()


def fit_budget(config: BudgetConfig, reporter: Reporter = SILENT) -> BudgetResult:
    """Distill students from the fastest on, in int8 and fp32, up to the first that meets all limits.

    Each is timed with untrained weights first; one that is too slow or too large is not trained. What is
    complete in `config.output_dir` is not made again, so that limits can be tried one after the other.

    Returns:
        The search: what was measured, and the first student that meets the limits, if any does.

    Raises:
        UserError: on anything wrong with the options, the data, the models or the output folder.
    """
    check_onnx("fit")
    select_device(config.device, reporter)
    with BudgetFolder.open(config) as folder:
        teacher = _find_teacher(config, folder, reporter)
        candidates, entries = _list_candidates(config, folder, teacher, reporter)
        search = _Search(config, folder, teacher, candidates, reporter)
        entries = [*search.run(), *entries]
        document = search.describe(entries)
        page, *_ = write_budget_report(folder.path / REPORT, document, "--output-dir")
    return BudgetResult(page, document)


def check_choice(result: BudgetResult) -> None:
    """Raise `GateMissed` where no student meets the limits."""
    document = result.typed_document
    if document.chosen is None:
        raise GateMissed(" ".join(document.verdict))


def _find_teacher(config: BudgetConfig, folder: BudgetFolder, reporter: Reporter) -> str:
    """Return the teacher's name; where none was given, fine-tune it first.

    Raises:
        UserError: as `train`.
    """
    if config.teacher:
        return config.teacher
    path = folder.path / TEACHER
    try:
        Run.load(path)
    except UserError:
        reporter.note("fit: no teacher was given, so one is fine-tuned first")
        shared = take_options(config, *TRAINING_OPTIONS)
        if config.model:
            shared["model"] = config.model
        train(TrainConfig(**shared, output_dir=path), reporter)
    return str(path)


def _list_candidates(
    config: BudgetConfig, folder: BudgetFolder, teacher_name: str, reporter: Reporter
) -> tuple[list[Candidate], list[BudgetEntry]]:
    """Return the students, the fastest first, and an entry for each that cannot be exported.

    Raises:
        UserError: when none can be.
    """
    source = find_model(teacher_name)
    layers = getattr(load_config(source), "num_hidden_layers", None)
    teacher: Classifier = load_classifier(source)
    candidates, faults = [], {}
    listed = list(config.list_students(layers))
    for done, (student, count) in enumerate(listed):
        name = name_student(student, count)
        reporter.advance("timing untrained students", done, len(listed), name)
        try:
            candidates.append(measure_candidate(config, teacher, student, count, folder.path))
        except (UserError, GateMissed) as error:
            faults[name] = (student, str(error))
    reporter.advance("timing untrained students", len(listed), len(listed))
    if not candidates:
        raise UserError("; ".join(f"{name}: {reason}" for name, (_, reason) in faults.items()))
    for name, (_, reason) in faults.items():
        reporter.warn(f"{name} is not tried: {reason}")
    candidates.sort(key=lambda candidate: min(cost.latency_p50_ms for cost in candidate.costs.values()))
    entries = [
        BudgetEntry(name=f"{name} in {form}", student=student, form=form, reason=reason)
        for name, (student, reason) in faults.items()
        for form in FORMS
    ]
    return candidates, entries


@dataclass
class _Search:
    """Try candidates one after the other.

    Attributes:
        candidates: the fastest first.
        evaluation: the last one, which holds the teacher's figures.
    """

    config: BudgetConfig
    folder: BudgetFolder
    teacher: str
    candidates: Sequence[Candidate]
    reporter: Reporter
    evaluation: EvaluationDocument | None = None

    def run(self) -> list[BudgetEntry]:
        """Return the entries of all candidates: measured, or with the reason why not."""
        entries: list[BudgetEntry] = []
        for candidate in self.candidates:
            untrained = [self._describe_untrained(candidate, form) for form in FORMS]
            if any(entry.meets_limits for entry in entries) and not self.config.try_all:
                entries += [_with_reason(entry, "a cheaper one was chosen") for entry in untrained]
            elif all(entry.missed for entry in untrained) and not self.config.try_all:
                self._note_too_costly(untrained)
                entries += untrained
            else:
                entries += self._try(candidate)
        return entries

    def describe(self, entries: Sequence[BudgetEntry]) -> BudgetDocument:
        """Return the document of the search; the teacher is evaluated alone where no student was."""
        evaluation = self.evaluation or self._evaluate([])
        entry = _entry_of(evaluation, self.teacher)
        chosen = next((entry for entry in entries if entry.meets_limits), None)
        provenance = evaluation.provenance
        document = BudgetDocument(
            name=str(self.folder.path),
            dataset=evaluation.dataset,
            rows=evaluation.rows,
            cpu=provenance.cpu if provenance else None,
            threads=evaluation.threads,
            confidence=evaluation.confidence,
            limits=self.limits,
            teacher=BudgetTeacher(
                name=self.teacher,
                parameters=entry.cost.parameters or 0,
                cost=_cost_of(entry),
                quality=_quality_of(entry),
            ),
            entries=list(entries),
            chosen=chosen.name if chosen else None,
            verdict=[],
        )
        if self.config.test and chosen and chosen.folder:
            test = self._evaluate([str(self.folder.path / chosen.folder)], split="test")
            quality = _quality_of(test.models[0])
            document = document.model_copy(update={"test": quality, "test_rows": test.rows})
        return document.model_copy(update={"verdict": write_verdict(document)})

    @property
    def limits(self) -> Limits:
        """Return the limits."""
        config = self.config
        return Limits(max_latency_ms=config.max_latency_ms, max_mb=config.max_mb, min_kept=config.min_kept)

    def _describe_untrained(self, candidate: Candidate, form: Form) -> BudgetEntry:
        cost = candidate.costs[form]
        return BudgetEntry(
            name=candidate.describe(form),
            student=candidate.student,
            form=form,
            parameters=candidate.parameters,
            cost=cost,
            missed=list_missed(self.limits, cost, None),
        )

    def _note_too_costly(self, untrained: Sequence[BudgetEntry]) -> None:
        shown = " and ".join(f"{entry.name} {describe_cost(entry)}" for entry in untrained)
        self.reporter.note(f"fit: not trained, as it costs too much: {shown}")

    def _try(self, candidate: Candidate) -> Iterator[BudgetEntry]:
        """Distill a candidate, export it and yield an entry for each form."""
        run = self.folder.find_run(candidate.name)
        if run is None:
            self.reporter.note(f"fit: distilling {candidate.name}")
            path = self.folder.path / RUNS / candidate.name
            run = distill(
                make_distill_config(self.config, self.teacher, candidate.student, candidate.layers, path),
                self.reporter,
            )
        folders = []
        for form in FORMS:
            name = f"{candidate.name}-{form}"
            folder = self.folder.path / EXPORTED / name
            if not self.folder.has_export(name):
                export_form(self.config, str(run.path), form, folder)
            folders.append(folder)
        self.evaluation = self._evaluate([str(folder) for folder in folders])
        for form, folder in zip(FORMS, folders, strict=True):
            scored = _entry_of(self.evaluation, str(folder))
            cost, quality = _cost_of(scored), _quality_of(scored)
            entry = BudgetEntry(
                name=candidate.describe(form),
                student=candidate.student,
                form=form,
                folder=str(folder.relative_to(self.folder.path)),
                run=str(run.path.relative_to(self.folder.path)),
                parameters=candidate.parameters,
                cost=cost,
                quality=quality,
                missed=list_missed(self.limits, cost, quality),
            )
            self.reporter.note(f"fit: {entry.name} {describe_quality(quality)} at {describe_cost(entry)}")
            yield entry

    def _evaluate(self, models: Sequence[str], split: Split = "validation") -> EvaluationDocument:
        """Score exported models and the teacher on a split, on this CPU."""
        config = self.config
        result = evaluate(
            EvaluateConfig(
                **take_options(config, "max_length", "max_eval_samples", "threads", "seed"),
                models=(*models, self.teacher),
                teacher=self.teacher,
                split=split,
                device="cpu",
            ),
            SILENT,
        )
        return result.typed_document


def _with_reason(entry: BudgetEntry, reason: str) -> BudgetEntry:
    return entry.model_copy(update={"reason": reason, "missed": ()})


def _entry_of(evaluation: EvaluationDocument, name: str) -> ModelEntry:
    return next(entry for entry in evaluation.models if entry.model == name)


def _cost_of(entry: ModelEntry) -> BudgetCost:
    cost = entry.cost
    assert cost.bytes is not None and cost.latency_p50_ms is not None and cost.latency_p95_ms is not None
    return BudgetCost(
        bytes=cost.bytes, latency_p50_ms=cost.latency_p50_ms, latency_p95_ms=cost.latency_p95_ms
    )


def _quality_of(entry: ModelEntry) -> BudgetQuality:
    accuracy = entry.metrics["accuracy"]
    assert accuracy is not None
    return BudgetQuality(
        accuracy=accuracy,
        accuracy_interval=entry.intervals["accuracy"],
        accuracy_kept=entry.metrics.get("accuracy_kept"),
        accuracy_kept_interval=entry.intervals.get("accuracy_kept"),
    )
