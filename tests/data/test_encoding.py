"""Rows end to end come back as the rectangle that plain padding makes of them."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import BAD, DEVICES, GOOD, family, lively, tiny_bert, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForSequenceClassification, XLNetConfig

import distilkit.models  # noqa: F401  # the Auto classes learn of the BiLSTM
from distilkit.data import large, texts
from distilkit.data.encoding import (
    Encoded,
    encode,
    is_full_mask,
    leave_out_full_mask,
    longest_input,
    make_full_mask,
)
from distilkit.data.texts import Texts
from distilkit.errors import UserError

TEXTS = [*GOOD, *BAD, "fun"]
PAIRS = [*BAD, "fun", *GOOD]

Rows = list[tuple[list[int], list[int]]]  # token ids and types of each row
row_lists = st.lists(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 255)), max_size=9).map(
        lambda row: ([one for one, _ in row], [two for _, two in row])
    ),
    min_size=1,
    max_size=12,
)


def flat_of(rows: Rows, padding: dict[str, int]) -> Encoded:
    lengths = [len(ids) for ids, _ in rows]
    return Encoded(
        flat={
            "input_ids": torch.tensor([one for ids, _ in rows for one in ids], dtype=torch.int32),
            "token_type_ids": torch.tensor([one for _, types in rows for one in types], dtype=torch.uint8),
        },
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        padding=padding,
    )


def naively_padded(rows: Rows, padding: dict[str, int]) -> dict[str, Tensor]:
    """Row by row, value by value."""
    longest = max(1, *(len(ids) for ids, _ in rows)) if len(rows) > 1 else max(1, len(rows[0][0]))
    columns: dict[str, list[list[int]]] = {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    for ids, types in rows:
        missing = longest - len(ids)
        columns["input_ids"].append(ids + [padding["input_ids"]] * missing)
        columns["token_type_ids"].append(types + [padding["token_type_ids"]] * missing)
        columns["attention_mask"].append([1] * len(ids) + [0] * missing)
    return {name: torch.tensor(values, dtype=torch.int64) for name, values in columns.items()}


def check_same(batch: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert batch[name].dtype == torch.int64
        assert torch.equal(batch[name].cpu(), value), name


@pytest.mark.parametrize("device", DEVICES)
@given(rows=row_lists, data=st.data(), pad=st.integers(0, 99), pad_type=st.integers(0, 2))
@settings(max_examples=150, deadline=None)
def test_a_batch_is_its_rows_padded_one_by_one(
    device: str, rows: Rows, data: Any, pad: int, pad_type: int
) -> None:
    """Values read past a row's end are the next row's; a mask that is off by one reads padding as words."""
    padding = {"input_ids": pad, "token_type_ids": pad_type}
    encoded = flat_of(rows, padding).to(torch.device(device))
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=10))
    expected = naively_padded([rows[row] for row in chosen], padding)
    check_same(encoded.inputs(np.asarray(chosen)), expected)
    check_same(encoded.batch(chosen), expected)


@pytest.mark.parametrize("rows", [[([], [])], [([], []), ([], [])], [([], []), ([5], [1])]])
def test_rows_without_any_token_are_padding(rows: Rows) -> None:
    padding = {"input_ids": 7, "token_type_ids": 1}
    check_same(flat_of(rows, padding).inputs(np.arange(len(rows))), naively_padded(rows, padding))


def test_rows_of_one_length_are_as_they_are_and_their_mask_is_full() -> None:
    """The way without padding is another piece of code."""
    rows: Rows = [([row, row + 1, row + 2], [0, 1, 1]) for row in range(5)]
    padding = {"input_ids": 9, "token_type_ids": 9}
    check_same(
        flat_of(rows, padding).inputs(np.asarray([4, 0, 2])),
        naively_padded([rows[4], rows[0], rows[2]], padding),
    )


def test_a_batch_may_be_changed_without_changing_the_rows() -> None:
    """A view into the flat rows would let one step's masking damage the next epoch."""
    encoded = flat_of([([1, 2], [0, 0]), ([3, 4], [0, 0])], {"input_ids": 0, "token_type_ids": 0})
    for name in ("input_ids", "token_type_ids"):
        encoded.inputs(np.arange(2))[name].fill_(99)
    assert encoded.flat["input_ids"].tolist() == [1, 2, 3, 4]
    assert encoded.flat["token_type_ids"].tolist() == [0] * 4


@pytest.mark.parametrize("device", DEVICES)
def test_moved_rows_take_what_is_joined_to_them_along(device: str) -> None:
    """Labels left behind on another device stop a run; joined to other rows they would spoil it."""
    encoded = flat_of([([1], [0]), ([2, 3], [0, 1]), ([4], [0])], {"input_ids": 0, "token_type_ids": 0})
    labels, teacher_logits = torch.tensor([7, 8, 9]), torch.randn(3, 2)
    moved = encoded.join(labels=labels, teacher_logits=teacher_logits).to(torch.device(device))
    assert moved.device.type == device and isinstance(moved.offsets, np.ndarray)
    batch = moved.batch([2, 0])
    assert {value.device.type for value in batch.values()} == {device}
    assert batch["labels"].tolist() == [9, 7]
    assert torch.equal(batch["teacher_logits"].cpu(), teacher_logits[[2, 0]])
    assert encoded.labels is None, "the rows that were given are as they were"
    assert moved.lengths.tolist() == [1, 2, 1] and len(moved) == 3


def test_what_is_joined_must_be_as_many_as_the_rows() -> None:
    encoded = flat_of([([1], [0]), ([2], [0])], {"input_ids": 0, "token_type_ids": 0})
    for column in (torch.zeros(1), torch.zeros(3)):
        with pytest.raises(ValueError, match="cannot be joined to 2 rows"):
            encoded.join(labels=column)
        with pytest.raises(ValueError, match="cannot be joined to 2 rows"):
            encoded.join(teacher_logits=column)


def test_the_bytes_are_those_of_every_column() -> None:
    """Told too few, rows that do not fit would be put on a device."""
    encoded = flat_of([([1], [0]), ([2, 3], [0, 1])], {"input_ids": 0, "token_type_ids": 0})
    assert encoded.bytes == 3 * 4 + 3
    joined = encoded.join(labels=torch.zeros(2, dtype=torch.int64), teacher_logits=torch.zeros(2, 5))
    assert joined.bytes == 3 * 4 + 3 + 2 * 8 + 2 * 5 * 4


# --- encode ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["texts", "pairs"])
@pytest.mark.parametrize("chunk", [1, 4, 1024])
def test_encoded_texts_are_what_the_tokenizer_makes_of_each(
    pairs: list[str] | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks joined with one value too many or too few would shift every row behind them."""
    monkeypatch.setattr(texts, "CHUNK_ROWS", chunk)
    tokenizer, told = tiny_tokenizer(), []
    encoded = encode(tokenizer, Texts(TEXTS, pairs), max_length=9, model=tiny_bert(), advance=told.append)
    whole = tokenizer(TEXTS, pairs, truncation=True, max_length=9, padding="longest", return_tensors="pt")
    batch = encoded.inputs(np.arange(len(TEXTS)))
    check_same(batch, {name: whole[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
    assert encoded.lengths.tolist() == whole["attention_mask"].sum(dim=1).tolist()
    assert encoded.lengths.max() == 9 or pairs is None
    assert told[-1] == len(TEXTS) and told == sorted(set(told))


def test_ids_in_a_file_are_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million rows are trained on from a file; another batch there would be another student."""
    options: Any = {"max_length": 32, "model": tiny_bert()}
    halves = [Texts(TEXTS[:4], PAIRS[:4]), Texts(TEXTS[4:], PAIRS[4:])]
    in_memory = encode(tiny_tokenizer(), Texts(TEXTS, PAIRS), **options)
    monkeypatch.setattr(large, "MEMORY_BYTES", 16)
    in_file = encode(tiny_tokenizer(), Texts(TEXTS, PAIRS), **options)
    joined = encode(tiny_tokenizer(), halves[0], **options).concat(
        encode(tiny_tokenizer(), halves[1], **options)
    )
    assert not in_memory.mappings and len(in_file.mappings) == len(joined.mappings) == 2
    for encoded in (in_file, joined):
        encoded.release()
        check_same(encoded.inputs(np.arange(len(TEXTS))), in_memory.inputs(np.arange(len(TEXTS))))


def test_token_types_take_a_byte_and_ids_four() -> None:
    """int64 for both makes a set of long reviews nearly four times as large in memory."""
    encoded = encode(tiny_tokenizer(), Texts(TEXTS, PAIRS), max_length=32, model=tiny_bert())
    assert encoded.flat["token_type_ids"].dtype == torch.uint8
    assert encoded.flat["input_ids"].dtype == torch.int32
    assert encoded.flat["token_type_ids"].max() == 1
    assert encoded.bytes == 5 * int(encoded.lengths.sum())


def test_only_what_the_model_takes_is_kept() -> None:
    """DistilBERT and single-text LSTMs fail on token types; a BERT without them reads pairs as one text."""

    class Plain(torch.nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> None: ...

    encoded = encode(tiny_tokenizer(), Texts(TEXTS), max_length=32, model=Plain())
    assert set(encoded.inputs(np.arange(2))) == {"input_ids", "attention_mask"}


def test_no_text_is_no_row() -> None:
    encoded = encode(tiny_tokenizer(), Texts([]), max_length=32, model=tiny_bert())
    assert len(encoded) == 0 and encoded.offsets.tolist() == [0]


def test_more_than_the_model_reads_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"--max-length 65 .* use 64 or less"):
        encode(tiny_tokenizer(), Texts(TEXTS), max_length=65, model=tiny_bert())


def test_the_labelled_share_counts_rows_whose_label_is_not_minus_100() -> None:
    encoded = flat_of([([1], [0]), ([2, 3], [0, 0]), ([4], [0]), ([5], [0])], {"input_ids": 0})
    assert encoded.labelled_share == 0
    for labels, share in (([0, 1, 2, 1], 1), ([-100, 1, -100, -100], 0.25), ([-100] * 4, 0)):
        assert encoded.join(labels=torch.tensor(labels)).labelled_share == share


@pytest.mark.parametrize(
    ("kind", "limit"), [("bert", 24), ("roberta", 22), ("xlm-roberta", 22), ("mpnet", 22)]
)
def test_positions_that_are_not_for_tokens_are_not_counted(kind: str, limit: int) -> None:
    """A RoBERTa counts from behind its padding: the last two of its positions are never reached."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = int(1e30)
    model = family(kind)
    assert longest_input(tokenizer, model) == limit
    row = torch.full((1, limit), 5)
    model.eval()(input_ids=row, attention_mask=torch.ones_like(row))
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        more = torch.full((1, limit + 1), 5)
        model(input_ids=more, attention_mask=torch.ones_like(more))


@pytest.mark.parametrize("kind", ["roberta", "deberta-v2"])
def test_token_types_are_left_out_where_the_model_has_no_two_of_them(kind: str) -> None:
    """Of a BERT's tokenizer the second text of a pair has type 1, for which such a model has no embedding."""
    model = family(kind, type_vocab_size=int(kind == "roberta")).eval()
    encoded = encode(tiny_tokenizer(), Texts(TEXTS, PAIRS), max_length=16, model=model)
    assert list(encoded.flat) == ["input_ids"]
    assert model(**encoded.inputs(np.arange(len(encoded)))).logits.isfinite().all()


def test_a_token_that_the_model_has_no_embedding_for_is_named() -> None:
    """Added to a tokenizer alone, it is an IndexError in the first batch that holds it."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["wow"])
    assert len(encode(tokenizer, Texts(["a film"]), max_length=8, model=tiny_bert())) == 1
    with pytest.raises(UserError, match=r"gives 'wow' the id \d+, but its embedding table has \d+ rows"):
        encode(tokenizer, Texts(["a film", "wow"]), max_length=8, model=tiny_bert())


def xlnet() -> Any:
    sizes = {"vocab_size": 60, "d_model": 8, "n_layer": 2, "n_head": 2, "d_inner": 8, "pad_token_id": 0}
    return lively(AutoModelForSequenceClassification.from_config(XLNetConfig(**sizes))).eval()


def test_a_limit_of_minus_one_is_no_limit() -> None:
    assert longest_input(tiny_tokenizer(), xlnet()) is None


def test_an_xlnet_that_pads_on_the_left_answers_as_for_the_row_alone() -> None:
    """Its head reads the last position: padded on the right, padding is what it answers for."""
    model, tokenizer = xlnet(), tiny_tokenizer()
    tokenizer.padding_side = "left"
    encoded = encode(tokenizer, Texts(TEXTS), max_length=16, model=model)
    assert (
        encoded.pads_left and not encode(tokenizer, Texts(TEXTS), max_length=16, model=tiny_bert()).pads_left
    )
    with torch.no_grad():
        together = model(**encoded.inputs(np.arange(len(encoded)))).logits
        for row in range(len(encoded)):
            alone = model(**encoded.inputs(np.array([row]))).logits[0]
            torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)
    mask = encoded.inputs(np.arange(len(encoded)))["attention_mask"]
    assert (mask[:, -1] == 1).all() and (mask[:, 0] == 0).any()


# --- masks that hide nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 5), (1, 5), (3, 1), (1, 1)])
def test_a_full_mask_is_known_as_one_and_no_mask_of_ones_is(shape: tuple[int, int]) -> None:
    """A padded row that was taken for a full one would be read with its padding."""
    full = make_full_mask(*shape, torch.device("cpu"))
    assert full.shape == shape and full.dtype == torch.int64 and bool((full == 1).all())
    assert is_full_mask(full) and is_full_mask(full[:1])
    assert not is_full_mask(torch.ones(shape, dtype=torch.int64))
    assert not is_full_mask(torch.zeros(shape, dtype=torch.int64))


def test_only_models_of_transformers_with_torchs_attention_go_without_a_mask() -> None:
    """A BiLSTM takes none to mean that padding has to be looked for; any other module may require one."""
    bert, ids = tiny_bert(), torch.full((2, 4), 5)
    full = {"input_ids": ids, "attention_mask": make_full_mask(2, 4, ids.device)}
    ones = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert set(leave_out_full_mask(bert, full)) == {"input_ids"}
    keeping = (family("bilstm"), family("deberta-v2"), torch.nn.Linear(1, 1))
    for model, inputs in ((bert, ones), *((model, full) for model in keeping)):
        assert set(leave_out_full_mask(model, inputs)) == {"input_ids", "attention_mask"}
    assert set(leave_out_full_mask(bert, {"input_ids": ids})) == {"input_ids"}


def test_off_the_cpu_a_batch_says_whether_it_has_padding_without_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looked at later, every batch would make the host wait for the device."""
    meta = torch.device("meta")  # torch for CPUs indexes no tensors of a CUDA device, fake ones neither
    monkeypatch.setattr(Encoded, "_send", lambda rows, values: torch.from_numpy(values).to(rows.device))
    flat = {"input_ids": torch.empty(8, dtype=torch.int32, device=meta)}
    rows = Encoded(flat, np.array([0, 3, 6, 8, 8]), {"input_ids": 0})
    for indices, is_full in (([0, 1], True), ([0, 1, 2], False), ([3], False), ([2], True)):
        inputs = rows.inputs(np.array(indices))
        assert is_full_mask(inputs["attention_mask"]) is is_full, indices
        assert {values.device for values in inputs.values()} == {meta}
        assert {values.dtype for values in inputs.values()} == {torch.int64}
