"""Students: their sizes, and what their weights start from."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from distilkit.config import DistillConfig
from distilkit.config.student import STATIC_EMBEDDING_SIZE
from distilkit.data.encoding import Tokenizer
from distilkit.errors import UserError, pluralize
from distilkit.models.architectures import (
    PRETRAINED,
    build_model,
    describe_size,
    named_config,
    resize_config,
    student_tokenizer,
)
from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from distilkit.models.classifier import Classifier, NamedTokenizer, Student
from distilkit.models.heads import label_config
from distilkit.models.loading import (
    embedding_table,
    load_config,
    load_for_training,
    load_tokenizer,
    match_tokenizer,
)
from distilkit.models.static import StaticConfig, StaticForSequenceClassification
from distilkit.models.teacher_layers import student_from_teacher
from distilkit.models.vocabulary import piece_tokenizer, word_tokenizer
from distilkit.runs.locating import find_model

# Standard deviation of word vectors: a teacher's directions transfer, not its scale. An LSTM wants small
# ones; large ones, which training turns less, keep a static student from learning its rows by heart.
VECTOR_SCALES = {"bilstm": 0.1, "static": 1.0}


def make_student(
    config: DistillConfig,
    names: Sequence[str],
    teacher: NamedTokenizer | None,
    training_texts: Iterable[str],
    existing_tokenizer: Tokenizer | None = None,
) -> Student:
    """Make the student that a resolved `config` asks for.

    Args:
        names: class names, by id.
        teacher: needed where its layers, embeddings or vocabulary are taken over.
        training_texts: what a word vocabulary is made of.
        existing_tokenizer: of an earlier student with the same vocabulary, so that none is made.

    Raises:
        UserError: when weights cannot be had or do not fit; the message says which flag to use instead.
    """
    if config.has_word_vectors:
        tokenizer = existing_tokenizer or _word_tokenizer(config, teacher, training_texts)
        return _word_student(config, names, teacher, tokenizer)
    if config.init == "pretrained":
        student = _pretrained(config, names)
    elif config.init == "teacher":
        assert isinstance(teacher, Classifier)
        student = student_from_teacher(config, names, teacher)
    else:
        student = _random(config, names, teacher)
    if teacher is not None:  # a student that reads the start of a text cannot learn what its end says
        student.tokenizer.truncation_side = teacher.tokenizer.truncation_side
    match_tokenizer(student.model, student.tokenizer, config.student)
    return student


def _word_student(
    config: DistillConfig, names: Sequence[str], teacher: NamedTokenizer | None, tokenizer: Tokenizer
) -> Student:
    """Make a BiLSTM or a static student."""
    rows, table, width = len(tokenizer), None, config.embedding_size
    origin = f"random weights, {pluralize(rows, 'word')} of the training text"
    if config.init == "teacher":
        assert isinstance(teacher, Classifier)
        table, reduced = _piece_vectors(teacher, _choose_width(config, teacher))
        rows, width = table.shape
        origin = f"word-piece embeddings {rows:,} x {width} of {teacher.name}{reduced}, the rest random"
    elif config.vocabulary == "teacher":
        assert teacher is not None
        origin = f"random weights, {rows:,} word-pieces of {teacher.name}"
    assert width and isinstance(tokenizer.pad_token_id, int)
    model = _build_word_student(config, names, (rows, width), tokenizer.pad_token_id)
    if table is not None:
        with torch.no_grad():
            weight = embedding_table(model)
            weight.copy_(table * (VECTOR_SCALES[config.student] / table.std()))
            weight[tokenizer.pad_token_id] = 0
    return Student(config.student, tokenizer, model, origin=origin)


def _build_word_student(
    config: DistillConfig, names: Sequence[str], table_shape: tuple[int, int], pad: int
) -> BiLSTMForSequenceClassification | StaticForSequenceClassification:
    """Build a BiLSTM or a static student with random weights and a word table of that shape."""
    assert config.hidden_size and config.dropout is not None and config.word_dropout is not None
    sizes: dict[str, Any] = {
        "vocab_size": table_shape[0],
        "embedding_size": table_shape[1],
        "hidden_size": config.hidden_size,
        "dropout": config.dropout,
        "word_dropout": config.word_dropout,
        "siamese": config.is_pair,
        "pad_token_id": pad,
    }
    if config.student == "static":
        return StaticForSequenceClassification(label_config(StaticConfig(**sizes), names))
    sizes |= {"num_layers": config.layers, "pooling": config.pooling}
    return BiLSTMForSequenceClassification(label_config(BiLSTMConfig(**sizes), names))


def _choose_width(config: DistillConfig, teacher: Classifier) -> int | None:
    """Return how wide word vectors that come from the teacher are; `None` for as wide as there."""
    if config.embedding_size is None and config.student == "static":
        return min(STATIC_EMBEDDING_SIZE, embedding_table(teacher.model).shape[1])
    return config.embedding_size


def _word_tokenizer(
    config: DistillConfig, teacher: NamedTokenizer | None, training_texts: Iterable[str]
) -> Tokenizer:
    assert config.max_length
    pairs, max_length = config.is_pair, config.max_length
    if config.vocabulary == "teacher":
        assert teacher is not None
        return piece_tokenizer(teacher.tokenizer, pairs=pairs, max_length=max_length)
    assert config.vocabulary_size
    return word_tokenizer(
        training_texts,
        config.vocabulary_size,
        pairs=pairs,
        max_length=max_length,
        truncation_side=teacher.tokenizer.truncation_side if teacher else "right",
    )


def _piece_vectors(teacher: Classifier, size: int | None) -> tuple[Tensor, str]:
    """Return the teacher's word-piece embeddings in at most `size` dimensions, and in words how.

    Fewer are coordinates along its principal components (as Mukherjee and Awadallah 2020, XtremeDistil).
    """
    table = embedding_table(teacher.model).detach()
    width = table.shape[1]
    if size is None or size == width:
        return table, ""
    if size > width:
        raise UserError(
            f"--embedding-size {size}: the word-piece embeddings of {teacher.name} have {width} "
            f"dimensions. Use at most {width}, or --init random."
        )
    share = float(teacher.components.shares[:size].sum())
    reduced = f" ({share:.1%} of the variance of {width} dimensions)"
    return teacher.components.coordinates(table, size), reduced


def _pretrained(config: DistillConfig, names: Sequence[str]) -> Student:
    hub = PRETRAINED.get(config.student)
    if hub and config.layers not in hub:
        raise UserError(
            f"--layers {config.layers}: pretrained {config.student} has {' or '.join(map(str, hub))}. "
            "Use --init teacher or --init random for other sizes."
        )
    name = hub[config.layers] if hub and config.layers else config.student
    try:
        source = find_model(name)
    except UserError as error:
        alternative = (
            "--init teacher (layers of the teacher) or --init random" if hub else "a folder as --student"
        )
        raise UserError(f"{error} Without pretrained weights, use {alternative}.") from None
    model_config = load_config(source)
    if not hub and config.layers is not None and config.layers != model_config.num_hidden_layers:
        raise UserError(
            f"--layers {config.layers}: {name} has {model_config.num_hidden_layers}. "
            "Leave it out, or use --init teacher or --init random."
        )
    loaded = load_for_training(source, names, model_config)
    origin = f"pretrained {name}{loaded.remarks}"
    return Student(config.student, load_tokenizer(source), loaded.model, origin=origin)


def _random(config: DistillConfig, names: Sequence[str], teacher: NamedTokenizer | None) -> Student:
    if config.student not in PRETRAINED:
        source = find_model(config.student)
        model_config = resize_config(load_config(source), config, config.student)
        tokenizer = load_tokenizer(source)
    else:
        if teacher is not None:
            tokenizer, origin = teacher.tokenizer, teacher.name
        else:
            origin = next(iter(PRETRAINED[config.student].values()))
            tokenizer = load_tokenizer(find_model(origin))
        model_config = named_config(config, tokenizer)
        tokenizer = student_tokenizer(tokenizer, model_config, origin)
    model = build_model(label_config(model_config, names))
    return Student(config.student, tokenizer, model, origin=f"random weights, {describe_size(model)}")
