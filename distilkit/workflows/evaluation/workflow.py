"""`evaluate`: score models, files of answers and endpoints on one split, side by side."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distilkit.config import EvaluateConfig
from distilkit.data import sources
from distilkit.data.inputs import measure_inputs
from distilkit.data.labels import match_labels
from distilkit.data.text_data import TextData
from distilkit.errors import UserError
from distilkit.hardware.precision import Resolved, default_device, resolve_precision
from distilkit.hardware.threads import using_threads
from distilkit.progress import SILENT, Reporter
from distilkit.reports.summary import markdown
from distilkit.runs import folder
from distilkit.runs import run as run_runs
from distilkit.scores.comparison import compare
from distilkit.scores.statistics import Interval
from distilkit.workflows.evaluation.contestants import Contestants, choose_contestants
from distilkit.workflows.evaluation.gates import check_baseline, check_gates_can_be_met, hold, read_baseline
from distilkit.workflows.evaluation.glue import read_hidden, submit
from distilkit.workflows.evaluation.result import Evaluation, InDomainScore, Score
from distilkit.workflows.evaluation.scoring import ModelScores, answer, score_endpoint, score_predictions_file


def evaluate(config: EvaluateConfig, reporter: Reporter = SILENT) -> Evaluation:
    """Score every model, file and endpoint of `config` on the same rows, each model with its own tokenizer.

    A model that is a run gets the result as `evaluation/<dataset>-<split>.json`.

    Raises:
        UserError: on anything wrong with options, data or models; labels of -1 are refused.
    """
    device = default_device()
    precision = resolve_precision(config.precision, device)
    _check_outputs(config)
    before = read_baseline(config.baseline) if config.baseline else None
    lineup = choose_contestants(config)
    data = _read(config, lineup, before, reporter)
    answered, threads = _ask(config, lineup, data, precision, device, reporter)
    figures, pairs = compare(lineup.contestants(answered), config.seed)
    scores = [
        _score(place, lineup, one, figures[place], data, config, reporter)
        for place, one in enumerate(answered)
    ]
    measured = Evaluation(
        data=data,
        split=config.split,
        rows=len(data.labels_of[config.split]),
        fingerprint=data.fingerprint(config.split),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=precision if lineup.models else None,
        threads=threads,
        seed=config.seed,
        scores=tuple(scores),
        pairs=tuple(pairs),
    )
    measured = replace(measured, gates=hold(config, measured, before))
    _write(measured, config, reporter)
    return measured


def _read(
    config: EvaluateConfig, lineup: Contestants, before: dict[str, Any] | None, reporter: Reporter
) -> TextData:
    data = sources.load_for_evaluation(config, config.split, [one.class_names for one in lineup.models])
    reporter.note_all(data.notes)
    if before:
        check_baseline(before, config, data)
    return data


def _ask(
    config: EvaluateConfig,
    lineup: Contestants,
    data: TextData,
    precision: Resolved,
    device: torch.device,
    reporter: Reporter,
) -> tuple[list[ModelScores], int]:
    """All answers in the lineup's order, and how many threads computed them.

    Whatever may be wrong is found first; what takes minutes comes last.
    """
    matched = [match_labels(one.class_names, data.names, one.name) for one in lineup.models]
    for one, (_, by_name) in zip(lineup.models, matched, strict=True):
        if not by_name:
            reporter.note(f"{one.name}: it shares no class names with the data; ids are taken to be the same")
    hidden = read_hidden(config)
    files = [score_predictions_file(file, data, config.split, reporter) for file in lineup.files]
    check_gates_can_be_met(config, lineup, files, data, device)
    endpoints = [score_endpoint(url, data, config, reporter) for url in lineup.endpoints]
    with using_threads(config.threads) as threads:
        models = [
            answer(one, columns, data, config, precision, device, reporter, alone=len(lineup.models) == 1)
            for one, (columns, _) in zip(lineup.models, matched, strict=True)
        ]
        if hidden and config.glue_submission:
            submit(
                config.glue_submission, lineup.models[0], matched[0][0], hidden, precision, device, reporter
            )
    return models + files + endpoints, threads


def _score(
    place: int,
    lineup: Contestants,
    one: ModelScores,
    figures: Mapping[str, Interval],
    data: TextData,
    config: EvaluateConfig,
    reporter: Reporter,
) -> Score:
    teacher = lineup.teachers[place]
    twin = lineup.twins[place] if "gap_recovered" in figures else None
    return Score(
        one,
        figures,
        None if teacher is None else lineup.names[teacher],
        None if twin is None else lineup.names[twin],
        _home(one, data, figures, reporter),
    )


def _home(
    one: ModelScores, data: TextData, figures: Mapping[str, Interval], reporter: Reporter
) -> InDomainScore | None:
    """What a run's own validation split is like, where this is another dataset."""
    run = one.loaded.run if one.loaded else None
    if one.loaded is None or run is None or not run.config.has_dataset or run.config.data_name == data.name:
        return None
    accuracy, here = run.metrics["validation"]["accuracy"], figures["accuracy"].value
    assert here is not None and one.loaded.max_length
    home = InDomainScore(run.config.data_name, accuracy, accuracy - here)
    try:
        own = sources.load_for_evaluation(run.config, "validation", [one.loaded.class_names])
    except UserError as error:
        reporter.note(f"{one.name}: the texts it was trained on cannot be compared with ({error})")
        return home
    texts, pairs = own.texts("validation"), own.pairs("validation")
    return replace(home, inputs=measure_inputs(one.loaded.tokenizer, texts, pairs, one.loaded.max_length))


def _write(measured: Evaluation, config: EvaluateConfig, reporter: Reporter) -> None:
    document = measured.document()
    # Another sample, or texts cut elsewhere, is another result: none takes the place of the other.
    part = f"-{measured.rows}-rows" if config.max_eval_samples else ""
    part += f"-{config.max_length}-tokens" if config.max_length else ""
    for score, entry in zip(measured.scores, document["models"], strict=True):
        run = score.answered.loaded.run if score.answered.loaded else None
        if run:
            file = run.path / run_runs.EVALUATION / f"{measured.data.name}-{config.split}{part}.json"
            try:
                folder.write_json(file, document | {"models": [entry], "pairs": [], "gates": []})
            except OSError as error:
                reporter.note(f"{file} cannot be written ({error.strerror}); the result is printed only")
    if config.markdown:
        _write_markdown(config.markdown, markdown(document))
    if config.report:
        from distilkit.reports.page import write_report

        page = write_report(config.report, document, [score.answered.answers for score in measured.scores])
        reporter.note(f"written: {page}")


def _write_markdown(file: Path, text: str) -> None:
    """Through a link, and into what is no file: `/dev/stdout`, a pipe."""
    if _is_stream(file):
        file.write_text(text, encoding="utf-8")
    else:
        folder.write_text(file.resolve(), text)


def _is_stream(file: Path) -> bool:
    """Whether it is there and no file, so that no folder has to take it."""
    return file.exists() and not file.is_file()


def _check_outputs(config: EvaluateConfig) -> None:
    """Refuse a place that cannot be written to before anything is scored."""
    if config.report:
        from distilkit.reports.parts import check_report_dir  # matplotlib takes a while

        check_report_dir(config.report)
    if config.markdown:
        if config.markdown.is_dir():
            raise UserError(f"--markdown {config.markdown} is a folder. Give a file.")
        if not _is_stream(config.markdown):
            folder.check_home(config.markdown.resolve(), "--markdown")
    if config.glue_submission:
        if config.glue_submission.exists() and not config.glue_submission.is_dir():
            raise UserError(f"--glue-submission {config.glue_submission} is a file. Name a folder.")
        folder.check_home(config.glue_submission, "--glue-submission")
