"""`distill --method general`: layers of a pre-trained teacher, matched on raw text: a general student."""

from functools import partial
from typing import Any

from accelerate.utils import set_seed
from datasets import DatasetDict
from transformers import PreTrainedModel

from distilkit.config import DistillConfig, resolve
from distilkit.data.corpus import TEXT, encode_chunks, read_corpus
from distilkit.data.encoding import Tokenizer
from distilkit.data.text_data import TextData
from distilkit.data.texts import Texts
from distilkit.engine.training.layers import LayerMatchingLoss
from distilkit.errors import pluralize
from distilkit.hardware.device import select_device
from distilkit.hardware.precision import check_precision, choose_precision
from distilkit.hardware.processes import make_accelerator
from distilkit.models.classifier import Classifier
from distilkit.models.loading import load_pretrained, load_tokenizer, match_tokenizer
from distilkit.models.students import make_student
from distilkit.progress import Reporter
from distilkit.runs.checkpoint import check_outputs
from distilkit.runs.locating import find_model
from distilkit.runs.run import Run
from distilkit.workflows.distillation.layers import Rows, pair_layers, shared_rows
from distilkit.workflows.fitting.fit import fit_into_run
from distilkit.workflows.fitting.job import LAYER_LOSS, Job, clamp_max_length

NAMES = ("LABEL_0", "LABEL_1")  # of heads that nobody trains: models are made with one, and saved without


def distill_general(config: DistillConfig, reporter: Reporter) -> Run:
    """Train `config.student` to have the layers of `config.teacher` on `config.corpus`; it has no head.

    General distillation, Jiao et al. 2020, section 3.2: the losses of TinyBERT's first stage, no labels and
    no logits. The epoch is kept whose layers are nearest on chunks that are held out.

    Returns:
        The run in `config.output_dir`, a student to fine-tune or to distill into.

    Raises:
        UserError: as `distill`.
    """
    requested, config = config, resolve(config)
    check_outputs([config])
    device = select_device(config.device, reporter)
    check_precision(config.precision, device)
    source = find_model(config.teacher[0])
    corpus = read_corpus(config.corpus)
    set_seed(config.seed)
    model = load_pretrained(source, NAMES)
    teacher = Classifier(source.name, load_tokenizer(source), model)
    match_tokenizer(model, teacher.tokenizer, source.name)
    student = make_student(config, NAMES, teacher, ())
    reporter.note(f"student: {type(student.model).__name__} without its head, {student.origin}")
    encoder: Any = student.model.base_model  # without the head
    precision = choose_precision(config.precision, device, student.model, reporter)
    pair = pair_layers(config, student, teacher)
    readers = [(teacher.tokenizer, model), (student.tokenizer, student.model)]
    config = clamp_max_length(requested, config, readers)

    def encode_for(tokenizer: Tokenizer, model: PreTrainedModel) -> Rows:
        assert config.max_length
        texts = Texts(corpus[TEXT])
        done = partial(reporter.advance, "tokenize corpus", total=len(texts))
        return Rows(*encode_chunks(tokenizer, texts, max_length=config.max_length, model=model, advance=done))

    rows = shared_rows(student, teacher, encode_for(student.tokenizer, student.model), encode_for)
    held_out = (
        f"{pluralize(len(rows.train), 'chunk')} of {config.max_length} tokens, "
        f"{len(rows.validation):,} more are held out (the same for every run)"
    )
    reporter.note(f"corpus: {held_out}")
    loss = LayerMatchingLoss(pair)
    job = Job(
        command="distill",
        config=config,
        data=TextData(
            name=config.data_name,
            splits=DatasetDict(train=corpus),
            text_column=TEXT,
            pair_column=None,
            label_column="label",
            names=NAMES,
            metric=LAYER_LOSS,
            labels_of={},
            notes=(held_out,),
        ),
        model=encoder,
        tokenizer=student.tokenizer,
        loss=loss,
        formula=loss.formula,
        precision=precision,
        pair=pair,
        objective="layers",
        facts={
            "student": {"class": type(encoder).__name__, "origin": student.origin},
            "teachers": [{"name": teacher.name, "fingerprint": teacher.fingerprint, "share": 1.0}],
            "matched_layers": list(pair.layer_map),
        },
    )
    return fit_into_run(job, rows.train, rows.validation, make_accelerator(precision), reporter)
