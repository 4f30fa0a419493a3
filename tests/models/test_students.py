"""A student starts from what it is said to start from."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, MakeModel, family, lively, tiny_bert, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    DistilBertForSequenceClassification,
    FunnelConfig,
)

from distilkit.config import DistillConfig, resolve
from distilkit.errors import UserError
from distilkit.models.bilstm import BiLSTMForSequenceClassification
from distilkit.models.classifier import Classifier, NamedTokenizer, Student, load_classifier
from distilkit.models.heads import model_names
from distilkit.models.loading import save_model
from distilkit.models.students import make_student
from distilkit.models.teacher_layers import copy_layers, evenly_spaced
from distilkit.runs.locating import find_model

NAMES = ("negative", "positive")
TEXTS = [*GOOD, *BAD]


def teacher_of(model: Any) -> NamedTokenizer:
    """A teacher as `distill` hands it over; without a model where its tokenizer is enough."""
    if model is None:
        return NamedTokenizer("the-teacher", tiny_tokenizer())
    return Classifier("the-teacher", tiny_tokenizer(), model)


def student_of(
    teacher: NamedTokenizer | None = None, names: tuple[str, ...] = NAMES, **options: Any
) -> Student:
    """What `distill` would train for these options."""
    known: dict[str, Any] = {"data_dir": "data", "output_dir": "run", "teacher": teacher and "the-teacher"}
    known["alpha"] = 0.5 if teacher else 1
    config = resolve(DistillConfig(**(known | options)))
    torch.manual_seed(0)
    return make_student(config, names, teacher, TEXTS)


def state(text: str, model: Any) -> Any:
    """The last layer's answer to one text, by the body of a BERT or DistilBERT."""
    batch = tiny_tokenizer()(text, return_tensors="pt")
    body = model.base_model
    if model.config.model_type == "distilbert":
        del batch["token_type_ids"]
    with torch.no_grad():
        return body.eval()(**batch).last_hidden_state


# --- which layers ------------------------------------------------------------------------------------------


def test_evenly_spaced_layers_are_those_of_distilbert() -> None:
    assert evenly_spaced(12, 6) == [0, 2, 4, 7, 9, 11]
    assert evenly_spaced(12, 4) == [0, 4, 7, 11]
    assert evenly_spaced(12, 12) == list(range(12))
    assert evenly_spaced(6, 3) == [0, 2, 5]
    assert evenly_spaced(2, 1) == [0]


@given(teacher=st.integers(1, 48), student=st.integers(1, 48))
def test_layers_are_taken_in_order_and_none_twice(teacher: int, student: int) -> None:
    student = min(student, teacher)
    copied_layers = evenly_spaced(teacher, student)
    assert len(copied_layers) == student == len(set(copied_layers))
    assert copied_layers == sorted(copied_layers) and copied_layers[0] == 0
    assert copied_layers[-1] == (teacher - 1 if student > 1 else 0)


# --- layers of the teacher ---------------------------------------------------------------------------------


def test_a_bert_with_all_layers_of_its_teacher_is_its_teacher() -> None:
    teacher = lively(tiny_bert(layers=3))
    made = student_of(teacher_of(teacher), student="tinybert", init="teacher", layers=3)
    batch = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(made.model.eval()(**batch).logits, teacher(**batch).logits)
    assert made.origin == "embeddings and layers 1, 2, 3 (of 3) of the-teacher"


@pytest.mark.parametrize("student", ["tinybert", "distilbert"])
def test_each_layer_of_the_student_is_the_one_it_is_said_to_be(student: str) -> None:
    """Off by one, or the first layers instead of evenly spaced ones, the student is only a little worse."""
    teacher = tiny_bert(layers=6)
    made = student_of(teacher_of(teacher), student=student, init="teacher", layers=3)
    assert "layers 1, 3, 6 (of 6) of the-teacher" in made.origin
    weights = made.model.state_dict()
    for own, theirs in enumerate((0, 2, 5)):
        layer = teacher.bert.encoder.layer[theirs]
        if student == "tinybert":
            prefix, names = f"bert.encoder.layer.{own}.", ("attention.self.key", "output.dense")
        else:
            prefix, names = f"distilbert.transformer.layer.{own}.", ("attention.k_lin", "ffn.lin2")
        assert torch.equal(weights[f"{prefix}{names[0]}.weight"], layer.attention.self.key.weight)
        assert torch.equal(weights[f"{prefix}{names[1]}.weight"], layer.output.dense.weight)


@pytest.mark.parametrize("text", TEXTS)
def test_a_distilbert_with_all_layers_of_a_bert_reads_single_texts_as_the_bert_does(
    text: str, distilled_body: tuple[Any, Any]
) -> None:
    """A matrix under the wrong name, or the segment embedding left out, leaves a shape that fits."""
    teacher, student = distilled_body
    torch.testing.assert_close(state(text, student), state(text, teacher), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def distilled_body() -> tuple[Any, Any]:
    """A BERT, every weight of it random, and the DistilBERT made of all its layers."""
    teacher = tiny_bert(layers=3)
    with torch.no_grad():
        for parameter in teacher.parameters():  # biases and norms too, which start at 0 and 1
            parameter.add_(0.2 * torch.randn_like(parameter))
    made = student_of(teacher_of(teacher), student="distilbert", init="teacher", layers=3)
    return teacher, made.model


def test_a_distilbert_names_what_is_new_in_it(distilled_body: tuple[Any, Any]) -> None:
    teacher, _ = distilled_body
    made = student_of(teacher_of(teacher), student="distilbert", init="teacher", layers=3)
    assert isinstance(made.model, DistilBertForSequenceClassification)
    assert "new: pre_classifier.weight, pre_classifier.bias" in made.origin
    assert list(made.tokenizer("a great film")) == ["input_ids", "attention_mask"]
    assert made.tokenizer("a great film")["input_ids"] == tiny_tokenizer()("a great film")["input_ids"]


def test_the_teacher_is_not_changed_by_being_copied() -> None:
    teacher = tiny_bert()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    made = student_of(teacher_of(teacher), student="tinybert", init="teacher", layers=1)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert teacher.config.num_hidden_layers == 2


@pytest.mark.parametrize("student", ["tinybert", "distilbert"])
def test_a_head_taken_from_the_teacher_is_put_in_the_order_of_the_datas_classes(student: str) -> None:
    """The teacher's class 0 is the data's class 1: copied as it lies, the head starts out upside down."""
    teacher = lively(tiny_bert(names=NAMES[::-1]))
    made = student_of(teacher_of(teacher), student=student, init="teacher", layers=2)
    assert model_names(made.model) == NAMES
    if student == "tinybert":
        batch = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
        expected = teacher(**batch).logits.flip(1)
        torch.testing.assert_close(made.model.eval()(**batch).logits, expected)
    else:
        assert not torch.equal(made.model.classifier.weight, teacher.classifier.weight)


def test_a_head_of_another_size_is_new() -> None:
    made = student_of(
        teacher_of(tiny_bert()), ("bad", "fine", "good"), student="tinybert", init="teacher", layers=1
    )
    assert made.model.classifier.weight.shape == (3, 24)
    assert "new: classifier.weight, classifier.bias" in made.origin


def test_widths_that_differ_are_refused() -> None:
    config = tiny_bert().config
    config.intermediate_size = 32
    with pytest.raises(UserError, match="--init random"):
        copy_layers(tiny_bert(), BertForSequenceClassification(config), [0, 1])


@pytest.mark.parametrize("kind", ["flaubert", "albert"])
def test_layers_whose_names_have_no_number_are_not_taken_for_others(kind: str) -> None:
    """FlauBERT's are `attentions.N`: the first ones would be copied, and the run would name others."""
    teacher, student = (family(kind, num_hidden_layers=layers) for layers in (3, 1))
    if kind == "albert":  # its layers share their weights
        copy_layers(teacher, student, [2])
    else:
        copy_layers(teacher, student, [0])
        with pytest.raises(UserError, match="cannot be chosen for flaubert"):
            copy_layers(teacher, student, [2])


def test_more_layers_than_the_teacher_has_are_refused() -> None:
    with pytest.raises(UserError, match="--layers 3"):
        student_of(teacher_of(tiny_bert()), student="tinybert", init="teacher", layers=3)


def test_a_named_student_refuses_a_teacher_of_another_architecture(distilled_body: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match=r"cannot take layers.*a distilbert"):
        student_of(teacher_of(distilled_body[1]), student="tinybert", init="teacher", layers=1)


def test_a_distilbert_with_all_layers_of_a_distilbert_is_its_teacher(distilled_body: tuple[Any, Any]) -> None:
    teacher = distilled_body[1].eval()
    made = student_of(teacher_of(teacher), student="distilbert", init="teacher", layers=3)
    batch = made.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(made.model.eval()(**batch).logits, teacher(**batch).logits)


def test_any_encoder_may_take_layers_of_a_teacher_of_its_kind(make_bert: MakeModel) -> None:
    teacher, folder = lively(tiny_bert(layers=3, seed=5)), make_bert(layers=1)
    made = student_of(teacher_of(teacher), student=str(folder), init="teacher", layers=2)
    assert made.model.config.num_hidden_layers == 2
    weight = made.model.bert.encoder.layer[1].output.dense.weight
    assert torch.equal(weight, teacher.bert.encoder.layer[2].output.dense.weight)


# --- random and pretrained ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "layers", "width", "feed_forward"),
    [("tinybert", 4, 312, 1200), ("tinybert", 6, 768, 3072), ("distilbert", 6, 768, 3072)],
)
def test_random_students_have_the_published_sizes(
    student: str, layers: int, width: int, feed_forward: int
) -> None:
    made = student_of(teacher_of(None), student=student, init="random", layers=layers)
    config = made.model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (layers, width, 12)
    inner = config.hidden_dim if student == "distilbert" else config.intermediate_size
    assert inner == feed_forward
    assert config.vocab_size == len(tiny_tokenizer()) and config.pad_token_id == 0
    assert made.origin == f"random weights, {layers} layers x {width}"


def test_a_random_student_takes_the_size_it_is_told() -> None:
    made = student_of(teacher_of(None), student="tinybert", init="random", layers=2, hidden_size=24)
    assert made.model.config.hidden_size == 24 and made.model.config.intermediate_size == 96
    assert model_names(made.model) == NAMES
    with pytest.raises(UserError, match="multiple of 12"):
        student_of(teacher_of(None), student="tinybert", init="random", layers=2, hidden_size=25)


def test_a_random_student_shares_no_weight_with_its_teacher() -> None:
    teacher = tiny_bert()
    made = student_of(teacher_of(teacher), student="tinybert", init="random", layers=2, hidden_size=24)
    assert not torch.equal(
        made.model.bert.embeddings.word_embeddings.weight, teacher.bert.embeddings.word_embeddings.weight
    )


def test_a_random_student_of_any_folder_keeps_its_shape_and_tokenizer(make_bert: MakeModel) -> None:
    folder = make_bert(layers=2)
    made = student_of(None, student=str(folder), init="random", layers=1)
    assert made.model.config.num_hidden_layers == 1
    assert made.tokenizer("a great film")["input_ids"] == tiny_tokenizer()("a great film")["input_ids"]


@pytest.mark.parametrize("student", ["tinybert", "distilbert"])
def test_pretrained_weights_that_cannot_be_had_name_the_flag_to_use_instead(student: str) -> None:
    with pytest.raises(UserError, match=r"--init teacher .* or --init random"):
        student_of(teacher_of(None), student=student)


def test_pretrained_sizes_are_those_on_the_hub() -> None:
    with pytest.raises(UserError, match="--layers 5: pretrained tinybert has 4 or 6"):
        student_of(teacher_of(None), student="tinybert", layers=5)


def test_a_folder_is_a_pretrained_student(tmp_path: Path) -> None:
    model = lively(tiny_bert())
    save_model(model, tiny_tokenizer(), tmp_path)
    made = student_of(None, student=str(tmp_path))
    batch = tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(made.model.eval()(**batch).logits, model(**batch).logits)
    assert made.origin == f"pretrained {tmp_path}"
    with pytest.raises(UserError, match="--layers 1"):
        student_of(None, student=str(tmp_path), layers=1)


# --- bilstm ------------------------------------------------------------------------------------------------


def test_a_bilstm_of_words_knows_the_training_texts_and_nothing_else() -> None:
    made = student_of(None, hidden_size=5, embedding_size=6, layers=2)
    words = {word for text in TEXTS for word in re.findall(r"\w+|,", text)}
    assert set(made.tokenizer.get_vocab()) == words | {"[PAD]", "[UNK]"}
    assert isinstance(made.model, BiLSTMForSequenceClassification)
    assert made.model.get_input_embeddings().weight.shape == (len(words) + 2, 6)
    config = made.model.config
    assert (config.hidden_size, config.num_layers, config.siamese) == (5, 2, False)
    assert (config.dropout, config.pooling, config.word_dropout) == (0.1, "both", 0.0)
    other = student_of(None, pooling="max", word_dropout=0.3, dropout=0.2).model.config
    assert (other.dropout, other.pooling, other.word_dropout) == (0.2, "max", 0.3)
    assert model_names(made.model) == NAMES


def test_a_bilstm_of_the_teachers_word_pieces_starts_from_its_table() -> None:
    """A row under another id is another word's vector: only the directions show it."""
    teacher = tiny_bert()
    with torch.no_grad():
        teacher.get_input_embeddings().weight[0] = 0.02  # a teacher's padding may be anything: it is masked
    made = student_of(teacher_of(teacher), vocabulary="teacher", hidden_size=5)
    assert made.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    own, theirs = (
        made.model.get_input_embeddings().weight,
        teacher.bert.embeddings.word_embeddings.weight,
    )
    assert own.shape == theirs.shape
    assert own[0].abs().sum() == 0  # padding
    alike = torch.nn.functional.cosine_similarity(own[1:], theirs[1:])
    torch.testing.assert_close(alike, torch.ones(len(own) - 1))
    assert own[1:].std().item() == pytest.approx(0.1, rel=0.05)
    assert "word-piece embeddings" in made.origin and "the-teacher" in made.origin


def test_a_narrow_bilstm_starts_from_the_principal_components_of_the_teachers_table() -> None:
    """Coordinates under another id, or other components than the leading ones, are of a shape that fits."""
    teacher = tiny_bert()
    theirs = teacher.get_input_embeddings().weight
    made = student_of(teacher_of(teacher), vocabulary="teacher", hidden_size=5, embedding_size=7)
    own = made.model.get_input_embeddings().weight
    assert own.shape == (len(theirs), 7) and made.model.config.embedding_size == 7
    assert own[0].abs().sum() == 0  # padding
    left, values, _ = torch.linalg.svd((theirs - theirs.mean(dim=0)).detach(), full_matrices=False)
    expected = (left * values)[:, :7]
    expected = expected * (0.1 / expected.std())
    torch.testing.assert_close(own[1:] @ own[1:].T, expected[1:] @ expected[1:].T, atol=1e-4, rtol=1e-3)
    share = (values[:7].square().sum() / values.square().sum()).item()
    assert f"{len(theirs)} x 7 of the-teacher ({share:.1%} of the variance of 24 dimensions)" in made.origin


def test_the_teachers_own_width_leaves_its_table_as_it_is() -> None:
    """Rotated, it would be another table than without the option, for nothing."""
    teacher = teacher_of(tiny_bert())
    tables = [
        student_of(teacher, vocabulary="teacher", hidden_size=5, **width).model.get_input_embeddings().weight
        for width in ({}, {"embedding_size": 24})
    ]
    assert torch.equal(*tables)


def test_word_vectors_wider_than_the_teachers_are_refused() -> None:
    with pytest.raises(UserError, match=r"--embedding-size 25: .*the-teacher have 24 .*--init random"):
        student_of(teacher_of(tiny_bert()), vocabulary="teacher", embedding_size=25)


def test_a_bilstm_of_word_pieces_may_start_at_random_and_needs_no_teacher_weights() -> None:
    made = student_of(teacher_of(None), vocabulary="teacher", init="random", embedding_size=6)
    assert made.model.get_input_embeddings().weight.shape == (len(tiny_tokenizer()), 6)
    assert made.origin.startswith("random weights")


def test_a_static_student_starts_from_the_principal_components_of_its_teachers_table() -> None:
    """And is as wide as the teacher where that is narrower than its default."""
    teacher = teacher_of(tiny_bert())
    assert isinstance(teacher, Classifier)
    table = teacher.model.get_input_embeddings().weight.detach()
    for size, expected in ((6, teacher.components.coordinates(table, 6)), (None, table)):
        made = student_of(teacher, student="static", embedding_size=size)
        weight = made.model.get_input_embeddings().weight.detach()
        assert torch.allclose(weight[1:] / weight[1:].norm(), expected[1:] / expected[1:].norm(), atol=1e-6)
        assert not weight[0].any() and made.tokenizer("a great film")["input_ids"][0] != 2
    config = tiny_bert().config
    config.hidden_size = 384
    wide = student_of(teacher_of(BertForSequenceClassification(config)), student="static")
    assert wide.model.config.embedding_size == 96 and "of the variance of 384" in wide.origin


def test_a_bilstm_of_the_default_sizes_stays_below_a_million_parameters_beside_its_table() -> None:
    """On the word vectors of a teacher that is 384 wide; the table is not computed with, but looked up in."""
    config = tiny_bert().config
    config.hidden_size = 384
    teacher = teacher_of(BertForSequenceClassification(config))
    made = student_of(teacher, dataset="sst2", vocabulary="teacher")
    sizes = made.model.config
    assert (sizes.embedding_size, sizes.hidden_size, sizes.pooling) == (384, 150, "both")
    lstm = 2 * 4 * 150 * (384 + 150 + 2)
    count = sum(parameter.numel() for parameter in made.model.parameters())
    assert count - made.model.get_input_embeddings().weight.numel() == lstm + 601 * 200 + 201 * 2 < 1_000_000


def test_a_bilstm_for_pairs_is_siamese_and_its_tokenizer_tells_the_texts_apart() -> None:
    made = student_of(None, text_pair_column="other", hidden_size=5, embedding_size=6)
    assert made.model.config.siamese is True
    assert made.tokenizer("a film", "great fun")["token_type_ids"] == [0, 0, 1, 1]


# --- a value per layer -------------------------------------------------------------------------------------


def modernbert(layers: int = 4, **options: Any) -> Any:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"][:layers]
    sizes = {"num_hidden_layers": layers, "layer_types": kinds, "pad_token_id": 0, "local_attention": 4}
    return family("modernbert", **(sizes | {"cls_token_id": 2, "sep_token_id": 3} | options))


def qwen(**options: Any) -> Any:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    sizes = {"num_hidden_layers": 3, "layer_types": kinds, "num_key_value_heads": 1, "sliding_window": 4}
    return family("qwen2", **(sizes | {"use_sliding_window": True, "pad_token_id": 0} | options))


def longformer(**options: Any) -> Any:
    return family("longformer", num_hidden_layers=3, attention_window=[4, 8, 16], **options)


@pytest.mark.parametrize(
    ("make", "key", "layers", "values"),
    [
        (modernbert, "layer_types", 2, ["full_attention", "full_attention"]),
        (modernbert, "layer_types", 1, ["full_attention"]),
        (qwen, "layer_types", 2, ["full_attention", "full_attention"]),
        (longformer, "attention_window", 2, [4, 16]),
    ],
)
@pytest.mark.parametrize("init", ["teacher", "random"])
def test_lists_of_a_value_per_layer_are_cut_to_the_layers_of_the_student(
    init: str, make: Any, key: str, layers: int, values: Any, tmp_path: Path
) -> None:
    """Left long, they make transformers refuse the student when its first epoch is saved."""
    save_model(make(), tiny_tokenizer(), tmp_path)
    teacher = load_classifier(find_model(str(tmp_path)))
    student = student_of(teacher, ("LABEL_0", "LABEL_1"), student=str(tmp_path), init=init, layers=layers)
    assert getattr(student.model.config, key) == values
    assert student.model.config.num_hidden_layers == layers
    save_model(student.model, student.tokenizer, tmp_path / "student")
    again = load_classifier(find_model(str(tmp_path / "student")))
    assert getattr(again.model.config, key) == values
    rows = {"input_ids": torch.tensor([[2, 6, 7, 3]])}
    with torch.no_grad():
        torch.testing.assert_close(again.model(**rows).logits, student.model.eval()(**rows).logits)


def test_a_larger_random_student_repeats_the_values_of_its_layers(tmp_path: Path) -> None:
    save_model(modernbert(3), tiny_tokenizer(), tmp_path)
    student = student_of(student=str(tmp_path), init="random", layers=5)
    assert student.model.config.layer_types[3:] == ["full_attention", "sliding_attention"]
    save_model(student.model, student.tokenizer, tmp_path / "student")


def test_layers_of_an_encoder_with_a_decoder_are_refused(tmp_path: Path) -> None:
    save_model(
        family("bart", decoder_attention_heads=2, encoder_layers=2, decoder_layers=2),
        tiny_tokenizer(),
        tmp_path,
    )
    teacher = load_classifier(find_model(str(tmp_path)))
    with pytest.raises(UserError, match=r"bart, an encoder with a decoder.*--init random"):
        student_of(teacher, ("LABEL_0", "LABEL_1"), student=str(tmp_path), init="teacher", layers=1)


def test_an_architecture_that_refuses_another_number_of_layers_is_named(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 60, "d_model": 8, "n_head": 2, "d_head": 4, "d_inner": 8}
    model = AutoModelForSequenceClassification.from_config(FunnelConfig(block_sizes=[1, 1], **sizes))
    save_model(model, tiny_tokenizer(), tmp_path)
    with pytest.raises(UserError, match="--layers 1: a funnel"):
        student_of(student=str(tmp_path), init="random", layers=1)


@pytest.mark.parametrize(
    "options",
    [
        {"student": "tinybert", "init": "teacher", "layers": 1},
        {"student": "distilbert", "init": "teacher", "layers": 1},
        {"student": "bilstm", "vocabulary": "words"},
        {"student": "bilstm", "vocabulary": "teacher"},
    ],
)
def test_students_cut_texts_where_their_teacher_does(options: dict[str, Any]) -> None:
    teacher = teacher_of(tiny_bert())
    teacher.tokenizer.truncation_side = "left"
    student = student_of(teacher, **options)
    ids = student.tokenizer("a great film", truncation=True, max_length=3)["input_ids"]
    assert "film" in student.tokenizer.decode(ids)
