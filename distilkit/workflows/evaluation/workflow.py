"""Run `evaluate`: score models, predictions files and endpoints on one split, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from distilkit.config import EvaluateConfig
from distilkit.data import sources
from distilkit.data.inputs import measure_inputs
from distilkit.data.labels import list_pairs, match_labels
from distilkit.data.teacher_files import TeacherFile, cover, open_teacher_files
from distilkit.data.text_data import TextData
from distilkit.errors import UserError
from distilkit.hardware.cpu_formats import Workload, workload_of
from distilkit.hardware.device import name_device, select_device
from distilkit.hardware.precision import Resolved, check_precision, resolve_precision
from distilkit.hardware.threads import using_threads
from distilkit.progress import SILENT, Reporter
from distilkit.reports.document import InDomainScore, Provenance
from distilkit.reports.summary import markdown
from distilkit.runs import environment, folder
from distilkit.runs.run import EVALUATION, is_run
from distilkit.scores.comparison import compare
from distilkit.scores.statistics import Interval
from distilkit.workflows.evaluation.contestants import Contestants, choose_contestants
from distilkit.workflows.evaluation.gates import (
    check_baseline,
    check_gates_can_be_met,
    evaluate_gates,
    read_baseline,
)
from distilkit.workflows.evaluation.glue import read_hidden, write_submission
from distilkit.workflows.evaluation.identity import is_training_data, training_data_name
from distilkit.workflows.evaluation.result import Evaluation, Score, input_statistics, list_source_rows
from distilkit.workflows.evaluation.scoring import (
    ModelScores,
    score_endpoint,
    score_model,
    score_predictions_file,
    score_teacher_file,
)
from distilkit.workflows.evaluation.training_rows import TrainingRows


def evaluate(config: EvaluateConfig, reporter: Reporter = SILENT) -> Evaluation:
    """Score every model, file and endpoint of `config` on the same rows, each model with its own tokenizer.

    A model that is a run gets the result as `evaluation/<dataset>-<split>.json`.

    Raises:
        UserError: when options, data or models do not fit; labels of -1 are refused.
    """
    device = select_device(config.device, reporter)
    check_precision(config.precision, device)
    _check_outputs(config)
    baseline = read_baseline(config.baseline) if config.baseline else None
    contestants = choose_contestants(config)
    precision = _choose_precision(config, contestants, device)
    data = sources.load_for_evaluation(
        config, config.split, [model.class_names for model in contestants.models]
    )
    reporter.note_all(data.notes)
    for model in contestants.models:
        reporter.note_all(model.notes)
    data, teacher_files = _read_teacher_files(config, data, reporter)
    if baseline:
        check_baseline(baseline, config, data)
    unwritten: list[str] = []
    file_scores = _score_files(config, teacher_files, data, reporter)
    model_scores, threads = _score_all(
        config, contestants, file_scores, data, precision, device, reporter, unwritten
    )
    figures, pairs = compare(contestants.with_answers(model_scores), config.seed)
    training_rows = TrainingRows(data.texts(config.split))
    scores = [
        _make_score(i, contestants, model_scores[i], figures[i], data, config, training_rows)
        for i in range(len(model_scores))
    ]
    training_rows.note_unreadable(reporter)
    _note_unscored_rows(data, scores, reporter)
    evaluation = Evaluation(
        data=data,
        split=config.split,
        rows=len(data.labels_of[config.split]),
        fingerprint=data.fingerprint(config.split),
        device=name_device(device),
        precision=precision if contestants.models else None,
        threads=threads,
        seed=config.seed,
        scores=tuple(scores),
        pairs=tuple(pairs),
        provenance=_provenance(data.source_of[config.split]),
    )
    evaluation = replace(evaluation, gates=evaluate_gates(config, evaluation, baseline))
    unwritten.extend(_write(evaluation, config, reporter))
    return replace(evaluation, unwritten=tuple(unwritten))


def _note_unscored_rows(data: TextData, scores: Sequence[Score], reporter: Reporter) -> None:
    """Note that all rows may be scored, where a tenth is held out of data that no model was trained on."""
    if data.is_held_out and all(score.in_domain for score in scores):
        rows = sum(data.whole.values())
        reporter.note(
            f"{data.name}: {data.whole['validation']:,} of {rows:,} rows are scored; no run was trained on "
            "them, so all can be: --split train"
        )


def check_written(evaluation: Evaluation) -> None:
    """Raise `UserError` when a file that was asked for could not be written."""
    if evaluation.unwritten:
        raise UserError("\n".join(evaluation.unwritten))


def _choose_precision(config: EvaluateConfig, contestants: Contestants, device: torch.device) -> Resolved:
    """Choose by the workload of the largest model, on which most time is spent.

    Exported models compute as they were exported.
    """
    models = [model for model in contestants.models if not model.is_exported]
    if contestants.models and not models:
        return "fp32"
    workload = Workload()
    if models:
        largest = max(models, key=lambda model: model.parameters)
        workload = workload_of(largest.model, training=False)
    return resolve_precision(config.precision, device, workload)


def _read_teacher_files(
    config: EvaluateConfig, data: TextData, reporter: Reporter
) -> tuple[TextData, list[TeacherFile]]:
    """Return the data with the rows that all teacher files have, and the files."""
    files = open_teacher_files(config, data.names)
    for file in files:
        reporter.note_all(file.notes)
    data, notes = cover(data, config.split, files, config.missing)
    reporter.note_all(notes)
    return data, files


def _score_files(
    config: EvaluateConfig, teacher_files: Sequence[TeacherFile], data: TextData, reporter: Reporter
) -> list[ModelScores]:
    """Score the predictions files, then the teachers' files."""
    scores = [score_predictions_file(file, data, config.split, reporter) for file in config.predictions]
    return scores + [score_teacher_file(file, data, config.split, reporter) for file in teacher_files]


def _score_all(
    config: EvaluateConfig,
    contestants: Contestants,
    files: list[ModelScores],
    data: TextData,
    precision: Resolved,
    device: torch.device,
    reporter: Reporter,
    unwritten: list[str],
) -> tuple[list[ModelScores], int]:
    """Return all scores in the order of the contestants, and how many threads computed them.

    Everything that may be refused is checked first; models, which take minutes, come last.

    Args:
        files: the scores of the files.
        unwritten: receives why the submission to GLUE could not be written.
    """
    matched = [match_labels(model.class_names, data.names, model.name) for model in contestants.models]
    for model, (_, by_name) in zip(contestants.models, matched, strict=True):
        if not by_name:
            reporter.warn(
                f"{model.name}: it shares no class names with the data; class ids are assumed to match: "
                f"{list_pairs(model.class_names, data.names)}"
            )
    hidden = read_hidden(config)
    check_gates_can_be_met(config, contestants, files, data, device)
    endpoints = [score_endpoint(url, data, config, reporter) for url in contestants.endpoints]
    alone = len(contestants.models) == 1
    with using_threads(config.threads) as threads:
        models = [
            score_model(model, class_order, data, config, precision, device, reporter, measures_memory=alone)
            for model, (class_order, _) in zip(contestants.models, matched, strict=True)
        ]
        if hidden and config.glue_submission:
            class_order, _ = matched[0]
            with _collecting(unwritten, "--glue-submission", config.glue_submission):
                write_submission(
                    config.glue_submission,
                    contestants.models[0],
                    class_order,
                    hidden,
                    precision,
                    device,
                    reporter,
                )
    return models + files + endpoints, threads


def _make_score(
    i: int,
    contestants: Contestants,
    model_scores: ModelScores,
    figures: Mapping[str, Interval],
    data: TextData,
    config: EvaluateConfig,
    training_rows: TrainingRows,
) -> Score:
    teacher = contestants.teachers[i]
    labels_only = contestants.labels_only_baselines[i] if "gap_recovered" in figures else None
    trained_on, selected_by = training_rows.count(model_scores.classifier)
    return Score(
        model_scores,
        figures,
        None if teacher is None else contestants.names[teacher],
        None if labels_only is None else contestants.names[labels_only],
        _in_domain_score(model_scores, data, config, figures, training_rows),
        training_rows=trained_on,
        selection_rows=selected_by,
    )


def _in_domain_score(
    model_scores: ModelScores,
    data: TextData,
    config: EvaluateConfig,
    figures: Mapping[str, Interval],
    training_rows: TrainingRows,
) -> InDomainScore | None:
    """Return a run's score on its own validation split, where this is another dataset."""
    classifier = model_scores.classifier
    run = classifier.run if classifier else None
    if classifier is None or run is None or not run.config.has_dataset:
        return None
    if is_training_data(run, classifier, data, config):
        return None
    before, after = run.metrics["validation"].get("accuracy"), figures["accuracy"].value
    if before is None:  # judged by its teacher's predictions
        return None
    assert after is not None and classifier.max_length
    inputs, run_data = None, training_rows.read(classifier)
    if run_data:
        texts = run_data.data.texts("validation")
        inputs = measure_inputs(classifier.tokenizer, texts, classifier.max_length)
    return InDomainScore(
        dataset=training_data_name(run),
        accuracy=before,
        drop=before - after,
        inputs=input_statistics(inputs),
    )


def _provenance(source: str) -> Provenance:
    """Return what this evaluation was made with; `source` is the file of the rows, or a place on the Hub."""
    facts = environment.describe_environment()
    file = Path(source)
    return Provenance(
        distilkit=facts["versions"]["distilkit"] or "unknown",
        time=environment.now(),
        command_line=facts["command_line"],
        data=str(file.resolve()) if file.exists() else source,
        cpu=environment.cpu_name(),
        platform=facts["platform"],
        versions={name: version for name, version in facts["versions"].items() if name != "distilkit"},
        git_commit=facts["git_commit"],
    )


def _write(evaluation: Evaluation, config: EvaluateConfig, reporter: Reporter) -> list[str]:
    """Write what was asked for; return what could not be written, and why."""
    document = evaluation.typed_document
    unwritten: list[str] = []
    # A sample of the rows, or shorter texts, must not overwrite the result of the whole split.
    is_part = config.max_eval_samples or evaluation.rows < evaluation.data.whole.get(config.split, 0)
    suffix = f"-{evaluation.rows}-rows" if is_part else ""
    suffix += f"-{config.max_length}-tokens" if config.max_length else ""
    for score, entry in zip(evaluation.scores, document.models, strict=True):
        classifier = score.model_scores.classifier
        run = classifier.run if classifier else None
        if run:
            file = run.path / EVALUATION / f"{evaluation.data.name}-{config.split}{suffix}.json"
            alone = document.model_copy(update={"models": [entry], "pairs": [], "gates": []})
            try:
                folder.write_json(file, alone.as_dict())
            except OSError as error:
                reporter.note(f"{file} cannot be written ({error.strerror}); the result is printed only")
    if config.markdown:
        with _collecting(unwritten, "--markdown", config.markdown):
            _write_markdown(config.markdown, markdown(document))
    if config.report:
        from distilkit.reports.page import write_report

        answers = [score.model_scores.answers for score in evaluation.scores]
        rows = list_source_rows(evaluation.data, config.split)
        with _collecting(unwritten, "--report", config.report):
            reporter.note(f"written: {write_report(config.report, document, answers, rows)}")
    return unwritten


@contextmanager
def _collecting(unwritten: list[str], option: str, path: Path) -> Iterator[None]:
    """Keep the evaluation where a file cannot be written: what took minutes must not be lost with it."""
    try:
        yield
    except UserError as error:
        unwritten.append(str(error))
    except OSError as error:
        unwritten.append(f"{option} {path} cannot be written: {error.strerror}.")


def _write_markdown(file: Path, text: str) -> None:
    """Write through links, and into streams such as `/dev/stdout` or a pipe."""
    if _is_stream(file):
        file.write_text(text, encoding="utf-8")
    else:
        folder.write_text(file.resolve(), text)


def _is_stream(file: Path) -> bool:
    """Return whether it exists and is no file: nothing is made in its folder, which may be read-only."""
    return file.exists() and not file.is_file()


def _check_outputs(config: EvaluateConfig) -> None:
    """Refuse, before anything is scored, files and folders that cannot be written."""
    if config.report:
        from distilkit.reports.parts import check_report_dir  # matplotlib takes a while

        check_report_dir(config.report)
        _check_nothing_in_report(config, config.report)
    if config.markdown:
        if config.markdown.is_dir():
            raise UserError(f"--markdown {config.markdown} is a folder. Give a file.")
        if not _is_stream(config.markdown):
            folder.check_home(config.markdown.resolve(), "--markdown")
    if config.glue_submission:
        if config.glue_submission.exists() and not config.glue_submission.is_dir():
            raise UserError(f"--glue-submission {config.glue_submission} is a file. Name a folder.")
        folder.check_home(config.glue_submission, "--glue-submission")


def _check_nothing_in_report(config: EvaluateConfig, report: Path) -> None:
    """Refuse outputs in the folder of the report: it is written last, whole, and never over other files."""
    outputs = {"--markdown": config.markdown, "--glue-submission": config.glue_submission}
    outputs |= {
        f"the result of {name}": Path(name) / EVALUATION for name in config.models if is_run(Path(name))
    }
    for what, path in outputs.items():
        if path and path.resolve().is_relative_to(report.resolve()):
            where = f"{what} {path}" if what.startswith("--") else what
            raise UserError(
                f"{where} would be written into --report {report}, which holds a report alone. "
                "Name another folder for the report."
            )
