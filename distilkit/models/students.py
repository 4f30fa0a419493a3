"""Students: their sizes, and what their weights start from."""

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from distilkit.config import DistillConfig
from distilkit.data.encoding import Tokenizer
from distilkit.errors import UserError
from distilkit.models.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from distilkit.models.classifier import Components, principal_components
from distilkit.models.loading import (
    Source,
    embedding_table,
    find_model,
    hushed,
    label_config,
    load_config,
    load_for_training,
    load_tokenizer,
    model_names,
    reorder_head,
)
from distilkit.models.vocabulary import piece_tokenizer, word_tokenizer

# Hub weights of the named students, by number of layers.
PRETRAINED = {
    "tinybert": {4: "huawei-noah/TinyBERT_General_4L_312D", 6: "huawei-noah/TinyBERT_General_6L_768D"},
    "distilbert": {6: "distilbert/distilbert-base-uncased"},
}
# (hidden size, feed-forward size) of a random student, by its layers (Jiao et al. 2020; Sanh et al. 2019).
WIDTHS = {"tinybert": {4: (312, 1200), 6: (768, 3072)}, "distilbert": {6: (768, 3072)}}
HEADS = 12


@dataclass(frozen=True)
class Student:
    """A student to train: the model, its tokenizer, and in words where its weights come from.

    `picked` are the teacher's layers, from 0, that its own were copied from.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    origin: str
    picked: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Teacher:
    """A teacher, as far as a student starts from it; `model` is `None` where its tokenizer is enough."""

    source: Source
    tokenizer: Tokenizer
    model: PreTrainedModel | None

    @cached_property
    def components(self) -> Components:
        """Of its embedding table; students that are made together share them."""
        assert self.model is not None
        return principal_components(embedding_table(self.model).detach())


def make_student(
    config: DistillConfig,
    names: Sequence[str],
    teacher: Teacher | None,
    training_texts: Iterable[str],
    known: Tokenizer | None = None,
) -> Student:
    """The student that a resolved `config` asks for.

    Args:
        names: class names, by id.
        teacher: needed where its layers, embeddings or vocabulary are taken over.
        training_texts: what a word vocabulary is made of.
        known: the tokenizer of an earlier BiLSTM with the same vocabulary, which need not be made again.

    Raises:
        UserError: when weights cannot be had or do not fit; the message says which flag to use instead.
    """
    if config.student == "bilstm":
        return _bilstm(config, names, teacher, training_texts, known)
    if config.init == "pretrained":
        return _pretrained(config, names)
    if config.init == "teacher":
        assert teacher is not None
        return _from_teacher(config, names, teacher)
    return _random(config, names, teacher)


def _bilstm(
    config: DistillConfig,
    names: Sequence[str],
    teacher: Teacher | None,
    training_texts: Iterable[str],
    known: Tokenizer | None,
) -> Student:
    assert config.max_length and config.hidden_size and config.layers and config.dropout is not None
    assert config.pooling and config.word_dropout is not None
    pairs = config.is_pair
    tokenizer: Tokenizer
    if config.vocabulary == "teacher":
        assert teacher is not None
        tokenizer = known or piece_tokenizer(teacher.tokenizer, pairs=pairs, max_length=config.max_length)
        rows = len(tokenizer)
    else:
        assert config.vocabulary_size
        size, max_length = config.vocabulary_size, config.max_length
        tokenizer = known or word_tokenizer(training_texts, size, pairs=pairs, max_length=max_length)
        rows = len(tokenizer)
    origin = f"random weights, {rows:,} words of the training text"
    table = None
    if config.init == "teacher":
        assert teacher is not None
        table, reduced = _piece_vectors(teacher, config.embedding_size)
        rows = len(table)
        origin = (
            f"word-piece embeddings {rows:,} x {table.shape[1]} of {teacher.source.name}{reduced}, "
            "the rest random"
        )
    elif config.vocabulary == "teacher":
        assert teacher is not None
        origin = f"random weights, {rows:,} word-pieces of {teacher.source.name}"
    width = table.shape[1] if table is not None else config.embedding_size
    assert width
    sizes = BiLSTMConfig(
        vocab_size=rows,
        embedding_size=width,
        hidden_size=config.hidden_size,
        num_layers=config.layers,
        dropout=config.dropout,
        siamese=pairs,
        pad_token_id=tokenizer.pad_token_id,
        pooling=config.pooling,
        word_dropout=config.word_dropout,
    )
    model = BiLSTMForSequenceClassification(label_config(sizes, names))
    if table is not None:
        with torch.no_grad():
            weight = embedding_table(model)
            weight.copy_(table * (0.1 / table.std()))  # directions transfer; this scale suits an LSTM
            weight[tokenizer.pad_token_id] = 0
    return Student(model, tokenizer, origin)


def _piece_vectors(teacher: Teacher, size: int | None) -> tuple[Tensor, str]:
    """The teacher's word-piece embeddings, in `size` dimensions if that is fewer, and in words how.

    Fewer are coordinates along its principal components (as Mukherjee and Awadallah 2020, XtremeDistil).
    """
    assert teacher.model is not None
    table = embedding_table(teacher.model).detach()
    width = table.shape[1]
    if size is None or size == width:
        return table, ""
    if size > width:
        raise UserError(
            f"--embedding-size {size}: the word-piece embeddings of {teacher.source.name} have {width} "
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
    model, new = load_for_training(source, names, model_config)
    return Student(
        model, load_tokenizer(source), f"pretrained {name}" + (f"; new: {', '.join(new)}" if new else "")
    )


def _random(config: DistillConfig, names: Sequence[str], teacher: Teacher | None) -> Student:
    if config.student not in PRETRAINED:
        source = find_model(config.student)
        model_config = _resized(load_config(source), config, config.student)
        tokenizer = load_tokenizer(source)
    else:
        if teacher is not None:
            tokenizer, origin = teacher.tokenizer, teacher.source.name
        else:
            origin = next(iter(PRETRAINED[config.student].values()))
            tokenizer = load_tokenizer(find_model(origin))
        model_config = _named_config(config, tokenizer)
        tokenizer = _fitting(tokenizer, model_config, origin)
    model = _build(label_config(model_config, names))
    return Student(model, tokenizer, f"random weights, {_size(model)}")


def _resized(model_config: Any, config: DistillConfig, name: str) -> Any:
    if config.layers is not None:
        model_config.num_hidden_layers = config.layers
    if config.hidden_size is not None:
        feed_forward = "hidden_dim" if model_config.model_type == "distilbert" else "intermediate_size"
        if not hasattr(model_config, feed_forward):
            raise UserError(
                f"--hidden-size: a {model_config.model_type} ({name}) cannot be resized. Leave it out."
            )
        ratio = getattr(model_config, feed_forward) / model_config.hidden_size
        if config.hidden_size % model_config.num_attention_heads:
            raise UserError(
                f"--hidden-size {config.hidden_size} cannot be split between the "
                f"{model_config.num_attention_heads} attention heads of {name}. Use a multiple."
            )
        model_config.hidden_size = config.hidden_size
        setattr(model_config, feed_forward, round(ratio * config.hidden_size))
    return model_config


def _named_config(config: DistillConfig, tokenizer: Tokenizer) -> Any:
    assert config.layers is not None
    known = WIDTHS[config.student]
    hidden, feed_forward = known.get(config.layers, known[min(known)])
    if config.hidden_size is not None and config.hidden_size != hidden:
        hidden, feed_forward = config.hidden_size, 4 * config.hidden_size
    if hidden % HEADS:
        raise UserError(
            f"--hidden-size {hidden} cannot be split between {HEADS} attention heads. "
            f"Use a multiple of {HEADS}."
        )
    vocabulary, pad = len(tokenizer), tokenizer.pad_token_id
    if config.student == "distilbert":
        return DistilBertConfig(
            vocab_size=vocabulary,
            n_layers=config.layers,
            n_heads=HEADS,
            dim=hidden,
            hidden_dim=feed_forward,
            pad_token_id=pad,
        )
    return BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=config.layers,
        num_attention_heads=HEADS,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        pad_token_id=pad,
    )


def _from_teacher(config: DistillConfig, names: Sequence[str], teacher: Teacher) -> Student:
    assert teacher.model is not None
    given = teacher.model.config
    who = teacher.source.name
    own_layers = getattr(given, "num_hidden_layers", None)
    if own_layers is None or given.model_type == "bilstm":
        raise UserError(
            f"--init teacher: {who} is a {given.model_type}, without layers to take. Use --init random."
        )
    layers = config.layers or own_layers
    if layers > own_layers:
        raise UserError(f"--layers {layers}: the teacher {who} has only {own_layers}. Use fewer.")
    model_config = _shape_of_teacher(config, given, who)
    model_config.num_hidden_layers = layers
    student = _build(label_config(model_config, names))
    picked = evenly_spaced(own_layers, layers)
    new = copy_layers(teacher.model, student, picked)
    if not any(name.startswith("classifier") for name in new):
        reorder_head(student, model_names(teacher.model), names)
    numbers = ", ".join(str(index + 1) for index in picked)
    origin = f"embeddings and layers {numbers} (of {own_layers}) of {who}"
    tokenizer = _fitting(teacher.tokenizer, model_config, who)
    origin += f"; new: {', '.join(new)}" if new else ""
    return Student(student, tokenizer, origin, tuple(picked))


def _shape_of_teacher(config: DistillConfig, given: Any, who: str) -> Any:
    """The config of a student that takes layers of a teacher with config `given`."""
    if config.student == "distilbert" and given.model_type == "bert":
        return DistilBertConfig(
            vocab_size=given.vocab_size,
            max_position_embeddings=given.max_position_embeddings,
            n_heads=given.num_attention_heads,
            dim=given.hidden_size,
            hidden_dim=given.intermediate_size,
            activation=given.hidden_act,
            pad_token_id=given.pad_token_id,
        )
    if config.student in PRETRAINED:
        if given.model_type != ("bert" if config.student == "tinybert" else "distilbert"):
            raise UserError(
                f"--student {config.student} cannot take layers of {who}, a {given.model_type}. "
                f"Use --student {who} --layers N --init teacher, or --init random."
            )
        return copy.deepcopy(given)
    model_config = load_config(find_model(config.student))
    if model_config.model_type != given.model_type:
        raise UserError(
            f"--init teacher: layers of {who} ({given.model_type}) do not fit a {model_config.model_type} "
            f"({config.student}). Use --init pretrained or --init random."
        )
    model_config.vocab_size = given.vocab_size
    return model_config


def evenly_spaced(teacher_layers: int, student_layers: int) -> list[int]:
    """Which of the teacher's layers (from 0) a student takes: first and last, and evenly between.

    6 of 12 gives 0, 2, 4, 7, 9, 11, the choice of DistilBERT (Sanh et al. 2019, `scripts/extract.py`).
    """
    if student_layers == 1:
        return [0]
    step = (teacher_layers - 1) / (student_layers - 1)
    return [round(index * step) for index in range(student_layers)]


# BERT's names for DistilBERT's modules.
_DISTILBERT_NAMES = (
    (r"^distilbert\.embeddings\.", "bert.embeddings."),
    (r"^distilbert\.transformer\.layer\.", "bert.encoder.layer."),
    (r"\.attention\.q_lin\.", ".attention.self.query."),
    (r"\.attention\.k_lin\.", ".attention.self.key."),
    (r"\.attention\.v_lin\.", ".attention.self.value."),
    (r"\.attention\.out_lin\.", ".attention.output.dense."),
    (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.ffn\.lin1\.", ".intermediate.dense."),
    (r"\.ffn\.lin2\.", ".output.dense."),
    (r"\.output_layer_norm\.", ".output.LayerNorm."),
)


LAYER = re.compile(r"\.(layers?)\.(\d+)\.")


def _numbers_can_be_chosen(teacher: PreTrainedModel, student: PreTrainedModel) -> bool:
    """Whether names tell a parameter's layer, or (as ALBERT's) all layers share theirs."""
    names = [name for name, _ in student.named_parameters()]
    return any(map(LAYER.search, names)) or len(names) == len([*teacher.named_parameters()])


def copy_layers(teacher: PreTrainedModel, student: PreTrainedModel, picked: Sequence[int]) -> list[str]:
    """Fill `student` with the teacher's embeddings, the `picked` layers and what else has the same name.

    The student may be of the teacher's architecture, or a DistilBERT of a BERT's sizes: its layout has no
    segment embeddings, so the teacher's for the first segment are added to the position embeddings, which
    gives single texts the same input vectors.

    Returns:
        The names of the student's parameters that the teacher has nothing for.

    Raises:
        UserError: when a width differs.
    """
    given = teacher.state_dict()
    distil = student.config.model_type == "distilbert" and teacher.config.model_type == "bert"
    if list(picked) != list(range(len(picked))) and not _numbers_can_be_chosen(teacher, student):
        raise UserError(
            f"--init teacher: which layers are taken cannot be chosen for {student.config.model_type}, "
            "whose parameters are named in another way. Use --init random."
        )
    new = []
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            theirs = name
            for pattern, replacement in _DISTILBERT_NAMES if distil else ():
                theirs = re.sub(pattern, replacement, theirs)
            theirs = LAYER.sub(
                lambda match: f".{match[1]}.{picked[int(match[2])]}.",
                theirs,
                count=1,
            )
            behind_another_layer = distil and name.startswith("classifier.")
            if theirs not in given or behind_another_layer:
                if LAYER.search(name):
                    raise UserError(f"--init teacher: the teacher has nothing for {name}. Use --init random.")
                new.append(name)
                continue
            value = given[theirs]
            if distil and name == "distilbert.embeddings.position_embeddings.weight":
                value = value + given["bert.embeddings.token_type_embeddings.weight"][0]
            if value.shape != parameter.shape:
                if name.startswith("classifier"):
                    new.append(name)
                    continue
                raise UserError(
                    f"--init teacher: the student's {name} is {tuple(parameter.shape)}, the teacher's "
                    f"{tuple(value.shape)}. Widths must match; use --init random."
                )
            parameter.copy_(value)
    return new


def _build(model_config: Any) -> PreTrainedModel:
    with hushed():
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
            model_config, dtype=torch.float32
        )
    return model


def _fitting(tokenizer: Tokenizer, model_config: Any, who: str) -> Tokenizer:
    """The same tokenizer, returning what the student reads: DistilBERT takes no `token_type_ids`."""
    if model_config.model_type != "distilbert":
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"the tokenizer of {who} cannot be taken over by a distilbert. Use --student tinybert."
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=type(backend).from_str(backend.to_str()),
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=tokenizer.model_max_length,
        **{
            name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
        },
    )


def _size(model: PreTrainedModel) -> str:
    config = model.config
    return f"{config.num_hidden_layers} layers x {config.hidden_size}"
