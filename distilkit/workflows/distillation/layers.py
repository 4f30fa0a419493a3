"""What methods that match layers need: a teacher that can be matched, and rows that both read alike."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from distilkit.config import DistillConfig
from distilkit.config.fields import replace_values
from distilkit.data.encoding import Encoded, Tokenizer, count_embeddings, input_names
from distilkit.engine.training.layer_losses import Layers, layer_map
from distilkit.engine.training.layers import LayerMatchingLoss, LayerPair, PatientLoss, Projected, run_layers
from distilkit.engine.training.losses import DistillationLoss
from distilkit.errors import UserError
from distilkit.models.classifier import Classifier, Student
from distilkit.workflows.fitting.job import Job, Stage


class Rows(NamedTuple):
    """Rows to train and to validate on, as one model or both read them."""

    train: Encoded
    validation: Encoded


def pair_layers(config: DistillConfig, student: Student, teacher: Classifier) -> LayerPair:
    """Pair the teacher with the student, and map its layers to the student's.

    Raises:
        UserError: when one of them shows no layers, or they cannot be compared.
    """
    scores = config.method != "pkd"
    mine, theirs = (
        _probe(classifier.model, classifier.tokenizer, scores) for classifier in (student, teacher)
    )
    mapped_layers = layer_map(len(theirs.states) - 1, len(mine.states) - 1, student.copied_layers)
    if scores and mine.scores[0].shape[1] != theirs.scores[0].shape[1]:
        raise UserError(
            f"--method {config.method} compares attention head by head, but the student has "
            f"{mine.scores[0].shape[1]} heads and {teacher.name} {theirs.scores[0].shape[1]}. "
            "Use --init teacher or another --student"
            + ("." if config.method == "general" else ", or --method pkd.")
        )
    if config.method == "pkd":
        for classifier in (student, teacher):
            _check_first_token(classifier)
        mapped_layers = mapped_layers[:-1]
        if not mapped_layers:
            raise UserError(
                "--method pkd leaves the last layer to the logits, and the student has no other. "
                "Use --layers 2 or more, or --method logits."
            )
    widths = mine.states[-1].shape[-1], theirs.states[-1].shape[-1]
    teacher.model.eval()
    return LayerPair(teacher.model, Projected(student.model, *widths), mapped_layers, scores)


def _probe(model: Any, tokenizer: Tokenizer, scores: bool) -> Layers:
    token = torch.full((1, 2), tokenizer.cls_token_id or 0, device=next(model.parameters()).device)
    with torch.no_grad():
        return run_layers(
            model, {"input_ids": token, "attention_mask": torch.ones_like(token)}, scores=scores
        )


def _check_first_token(classifier: Classifier) -> None:
    """Raise `UserError` where the first token's state says nothing of the text, as in a decoder."""
    first = classifier.tokenizer.cls_token_id or 0
    device, rows = next(classifier.model.parameters()).device, count_embeddings(classifier.model) or 2
    ids = torch.tensor([[first, first], [first, (first + 1) % rows]], device=device)
    with torch.no_grad():
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        states = run_layers(classifier.model.eval(), inputs, scores=False).states[-1][:, 0]
    if torch.equal(states[0], states[1]):
        raise UserError(
            f"--method pkd matches the state of the first token, but in {classifier.name} "
            f"({type(classifier.model).__name__}) that token reads no other. Use --method logits."
        )


def shared_rows(
    student: Student,
    teacher: Classifier,
    rows: Rows,
    encode_for: Callable[[Tokenizer, Any], Rows],
) -> Rows:
    """Return the student's `rows` with the inputs that only the teacher reads, such as segments.

    Args:
        encode_for: the same rows for another tokenizer and model.

    Raises:
        UserError: when the teacher reads a row as other tokens.
    """
    read = input_names(teacher.tokenizer, teacher.model)
    if student.tokenizer is teacher.tokenizer and set(read) <= set(rows.train.flat):
        return rows
    theirs = encode_for(teacher.tokenizer, teacher.model)
    train, validation = (
        rows.train.with_inputs_of(theirs.train),
        rows.validation.with_inputs_of(theirs.validation),
    )
    if train is None or validation is None:
        raise UserError(
            "layers are matched token by token, but the student and its teacher "
            f"{teacher.name} split text into tokens differently. "
            "Use --student tinybert or distilbert with --init teacher or random, which take over its "
            "tokenizer, or --method logits."
        )
    return Rows(train, validation)


def with_layers(job: Job, loss: DistillationLoss, pair: LayerPair, rows: Rows) -> Job:
    """Return `job`, trained by the method of its config, with the layers of `pair` matched on `rows`.

    Args:
        loss: of its logits.
    """
    config = job.config
    assert isinstance(config, DistillConfig)
    facts = {**job.facts, "matched_layers": list(pair.layer_map)}
    if config.method == "pkd":
        assert config.beta is not None
        patient = PatientLoss(pair, loss, config.beta)
        return replace(job, pair=pair, loss=patient, formula=patient.formula, facts=facts)
    matching = LayerMatchingLoss(pair)
    first = replace(
        job,
        config=replace_values(config, epochs=config.layer_epochs, learning_rate=config.layer_learning_rate),
        objective="layers",
        pair=pair,
        loss=matching,
        decays=False,
    )
    return replace(
        job,
        formula=f"first {matching.formula}, then {job.formula}",
        facts=facts,
        first=Stage(first, rows.train, rows.validation),
    )
