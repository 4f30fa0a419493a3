"""`evaluate`: score models, files of answers and endpoints on one split, side by side."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from distilkit import runs
from distilkit.config import DistillConfig, EvaluateConfig
from distilkit.data import datasets
from distilkit.data.datasets import TextData
from distilkit.data.inputs import measure_inputs
from distilkit.engine.precision import default_device, resolve_precision
from distilkit.errors import UserError
from distilkit.progress import SILENT, Reporter
from distilkit.reports.comparison import Contestant, compare
from distilkit.reports.statistics import Interval
from distilkit.reports.summary import markdown
from distilkit.workflows.answering import (
    Answered,
    Loaded,
    answer,
    answer_from_endpoint,
    answer_from_file,
    load,
    using_threads,
)
from distilkit.workflows.gating import check_baseline, check_gates_can_be_met, hold, read_baseline
from distilkit.workflows.glue import submit
from distilkit.workflows.measured import Evaluation, Home, Score


def evaluate(config: EvaluateConfig, reporter: Reporter = SILENT) -> Evaluation:
    """Score every model, file and endpoint of `config` on the same rows, each model with its own tokenizer.

    A model that is a run gets the result as `evaluation/<dataset>-<split>.json`.

    Raises:
        UserError: on anything wrong with options, data or models; labels of -1 are refused.
    """
    device = default_device()
    precision = resolve_precision(config.precision, device)
    _check_outputs(config)
    loaded = [load(name, config) for name in _model_names(config)]
    before = read_baseline(config.baseline) if config.baseline else None
    names = [one.source.name for one in loaded] + [*config.predictions, *config.endpoint]
    teachers = [_teacher_of(place, names, loaded, config) for place in range(len(names))]
    check_gates_can_be_met(config, loaded, teachers)
    data = datasets.load_for_evaluation(config, config.split, loaded[0].names if loaded else ())
    for note in data.notes:
        reporter.note(note)
    if before:
        check_baseline(before, config, data)
    # What may be wrong with files and endpoints is known before models are run for minutes.
    others = [answer_from_file(file, data, config.split) for file in config.predictions]
    others += [answer_from_endpoint(url, data, config, reporter) for url in config.endpoint]
    with using_threads(config.threads) as threads:
        answered = [answer(one, data, config, precision, device, reporter) for one in loaded] + others
        if config.glue_submission:
            submit(config.glue_submission, loaded[0], config, data, precision, device, reporter)
    baselines = _labels_only(names, loaded, config)
    contestants = [
        Contestant(one.name, one.answers, teachers[place], baselines if baselines != place else None)
        for place, one in enumerate(answered)
    ]
    figures, pairs = compare(contestants, config.seed)
    scores = tuple(
        Score(
            one,
            figures[place],
            None if contestant.teacher is None else names[contestant.teacher],
            names[contestant.labels_only]
            if "gap_recovered" in figures[place] and contestant.labels_only is not None
            else None,
            _home(one, data, figures[place], config, reporter),
        )
        for place, (one, contestant) in enumerate(zip(answered, contestants, strict=True))
    )
    measured = Evaluation(
        data=data,
        split=config.split,
        rows=len(data.labels_of[config.split]),
        fingerprint=data.fingerprint(config.split),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=precision,
        threads=threads,
        seed=config.seed,
        scores=scores,
        pairs=tuple(pairs),
    )
    measured = replace(measured, gates=hold(config, measured, before))
    _write(measured, config, reporter)
    return measured


def _model_names(config: EvaluateConfig) -> list[str]:
    others = {*config.predictions, *config.endpoint}
    extra = [name for name in (config.teacher, config.labels_only) if name and name not in others]
    return list(dict.fromkeys([*config.models, *extra]))


def _teacher_of(place: int, names: list[str], loaded: list[Loaded], config: EvaluateConfig) -> int | None:
    if config.teacher:
        wanted = names.index(config.teacher)
        return None if wanted == place else wanted
    run = loaded[place].source.run if place < len(loaded) else None
    named = run.environment.get("teachers", []) if run else []
    if len(named) != 1:  # a mean of several is none of the models here
        return None
    return next(
        (i for i, one in enumerate(loaded) if i != place and one.fingerprint == named[0]["fingerprint"]),
        None,
    )


def _labels_only(names: list[str], loaded: list[Loaded], config: EvaluateConfig) -> int | None:
    """The student that had labels alone: the one that is named, else the only run at alpha 1."""
    if config.labels_only:
        return names.index(config.labels_only)
    runs_of = [(place, one.source.run.config) for place, one in enumerate(loaded) if one.source.run]
    found = [place for place, of in runs_of if isinstance(of, DistillConfig) and not of.runs_teacher]
    return found[0] if len(found) == 1 else None


def _home(
    one: Answered, data: TextData, figures: Mapping[str, Interval], config: EvaluateConfig, reporter: Reporter
) -> Home | None:
    """What a run's own validation split is like, where this is another dataset."""
    run = one.loaded.source.run if one.loaded else None
    if one.loaded is None or run is None or run.config.data_name == data.name or not run.config.has_dataset:
        return None
    try:
        own = datasets.load_for_evaluation(run.config, "validation", one.loaded.names)
    except UserError as error:
        reporter.note(f"{one.name}: the data it was trained on cannot be compared with ({error})")
        return None
    texts, pairs = own.texts("validation"), own.pairs("validation")
    inputs = measure_inputs(one.loaded.tokenizer, texts, pairs, one.loaded.max_length)
    accuracy, here = run.metrics["validation"]["accuracy"], figures["accuracy"].value
    assert here is not None
    return Home(own.name, accuracy, accuracy - here, inputs)


def _write(measured: Evaluation, config: EvaluateConfig, reporter: Reporter) -> None:
    document = measured.document()
    sample = f"-{measured.rows}" if config.max_eval_samples else ""
    for score, entry in zip(measured.scores, document["models"], strict=True):
        run = score.answered.loaded.source.run if score.answered.loaded else None
        if run:
            file = run.path / runs.EVALUATION / f"{measured.data.name}-{config.split}{sample}.json"
            try:
                runs.write_json(file, document | {"models": [entry], "pairs": [], "gates": []})
            except OSError as error:
                reporter.note(f"{file} cannot be written ({error.strerror}); the result is printed only")
    if config.markdown:
        runs.write_text(config.markdown, markdown(document))
    if config.report:
        from distilkit.reports.page import write_report

        page = write_report(config.report, document, [score.answered.answers for score in measured.scores])
        reporter.note(f"written: {page}")


def _check_outputs(config: EvaluateConfig) -> None:
    """Refuse a place that cannot be written to before anything is scored."""
    if config.report:
        from distilkit.reports.parts import check_report_dir  # matplotlib takes a while

        check_report_dir(config.report)
    if config.markdown:
        if config.markdown.is_dir():
            raise UserError(f"--markdown {config.markdown} is a folder. Give a file.")
        _make_folder(config.markdown.parent, f"--markdown {config.markdown}")
    if config.glue_submission:
        _make_folder(config.glue_submission, f"--glue-submission {config.glue_submission}")


def _make_folder(folder: Path, where: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{where}: {folder} cannot be made ({error.strerror}).") from None
