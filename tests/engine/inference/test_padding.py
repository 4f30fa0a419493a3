"""Models whose answers depend on padding are found out, and then answer every row as if it were alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, QUICK, Notes, family, lively, tiny_bert, tiny_tokenizer
from torch import Tensor

from distilkit import DistillConfig, EvaluateConfig, TrainConfig, UserError, distill, evaluate, train
from distilkit.data.encoding import encode
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import predict_texts
from distilkit.engine.inference.padding import check_batching, check_model_supports, padding_changes_logits
from distilkit.models.heads import label_config
from distilkit.models.loading import load_trained, save_model
from distilkit.runs.locating import find_model

TEXTS = ["fun", "no fun", *GOOD, *BAD, "a moving and great story . " * 6]
CPU = torch.device("cpu")


def fnet() -> Any:
    """A model without a mask: what stands beside a row changes its answer."""
    return lively(family("fnet", pad_token_id=0, max_position_embeddings=64), 5).eval()


def convbert() -> Any:
    """A model whose convolutions reach from the last tokens of a row into its padding."""
    sizes = {"embedding_size": 8, "head_ratio": 1, "conv_kernel_size": 9, "max_position_embeddings": 64}
    return lively(family("convbert", pad_token_id=0, **sizes), 5).eval()


def bert() -> Any:
    return lively(tiny_bert())


def qwen() -> Any:
    return lively(
        family("qwen2", num_key_value_heads=1, pad_token_id=0, max_position_embeddings=64), 5
    ).eval()


def check(model: Any, texts: list[str] = TEXTS, precision: Any = "fp32") -> str | None:
    return check_batching(
        model,
        tiny_tokenizer(),
        Texts(texts),
        max_length=48,
        precision=precision,
        device=CPU,
        name="the model",
    )


def alone(model: Any, texts: list[str]) -> Tensor:
    with torch.no_grad():
        inputs = [tiny_tokenizer()(text, return_tensors="pt", truncation=True) for text in texts]
        for values in inputs if model.config.model_type in ("fnet", "qwen2") else []:
            values.pop("attention_mask" if model.config.model_type == "fnet" else "token_type_ids")
        return torch.cat([model(**values).logits for values in inputs])


@pytest.mark.parametrize(("make", "depends"), [(fnet, True), (convbert, True), (bert, False), (qwen, False)])
def test_dependence_on_padding_is_found_and_mended(make: Any, depends: bool) -> None:
    """Undetected, a row's logits are those of whatever it was batched with, and the next run's differ."""
    model = make()
    note = check(model)
    assert bool(note) == depends and model.needs_equal_lengths == depends
    assert note is None or "the model: its answers depend on padding" in note
    assert check(model) is None, "a model is checked once"
    batches = predict_texts(
        model, tiny_tokenizer(), Texts(TEXTS), range(len(TEXTS)), max_length=48, precision="fp32"
    )
    logits = torch.cat([logits for _, logits in batches])
    torch.testing.assert_close(logits, alone(model, TEXTS), rtol=1e-4, atol=1e-5)


def test_rows_of_one_length_need_no_check_and_leave_no_trace() -> None:
    rows = encode(tiny_tokenizer(), Texts(["no fun", "great fun"]), max_length=8, model=fnet())
    assert not padding_changes_logits(fnet(), rows)
    assert check(tiny_bert(), []) is None


def test_the_check_draws_no_random_number_and_leaves_the_mode() -> None:
    """Dropout in it would change what every training after it draws."""
    model = tiny_bert().train()
    rows = encode(tiny_tokenizer(), Texts(TEXTS), max_length=48, model=model)
    before = torch.get_rng_state()
    assert not padding_changes_logits(model, rows)
    check_model_supports(model, rows, "bf16", "the model")
    assert torch.equal(torch.get_rng_state(), before) and model.training


def test_a_format_that_the_model_cannot_compute_in_is_refused_by_name() -> None:
    """A Fourier transform has no bf16: without the check it is a RuntimeError in the first batch."""
    with pytest.raises(UserError, match=r"the model: it cannot compute in bf16.*--precision fp32"):
        check(fnet(), precision="bf16")
    rows = encode(tiny_tokenizer(), Texts(TEXTS), max_length=48, model=fnet())
    with pytest.raises(UserError, match="--precision fp32"):
        check_model_supports(fnet(), rows, "bf16", "the model")
    assert check(bert(), precision="bf16") is None


@pytest.fixture
def fnet_dir(tmp_path: Path) -> Path:
    model = fnet()
    label_config(model.config, ("negative", "positive"))
    save_model(model, tiny_tokenizer(), tmp_path / "fnet")
    return tmp_path / "fnet"


@pytest.mark.usefixtures("fresh_cache")
def test_a_teacher_that_sees_padding_is_distilled_twice_from_the_same_logits(
    fnet_dir: Path, sst2_dir: Path, tmp_path: Path
) -> None:
    """Stored batch by batch, its logits were refused by every later run, with advice that led in a circle."""
    options: dict[str, Any] = QUICK | {"teacher": str(fnet_dir), "dataset": "sst2", "data_dir": sst2_dir}
    options |= {"alpha": 0, "epochs": 1, "hidden_size": 4, "embedding_size": 4}
    for name in ("first", "second"):
        notes = Notes()
        distill(DistillConfig(**options, output_dir=tmp_path / name), notes)
        assert any("its answers depend on padding" in note for note in notes.notes)
    assert any("8 spot-checked" in note for note in notes.notes)


def test_train_and_evaluate_give_the_accuracy_that_the_model_has_row_by_row(
    fnet_dir: Path, sst2_dir: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": sst2_dir, "epochs": 1}
    notes = Notes()
    run = train(TrainConfig(**options, model=str(fnet_dir), output_dir=tmp_path / "run"), notes)
    assert any("its answers depend on padding" in note for note in notes.notes)
    model = load_trained(find_model(str(run.path)))
    labels = torch.tensor([0] * 4 + [1] * 4)
    logits = alone(model, [*BAD, *GOOD])
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    assert run.metrics["validation"]["loss"] == pytest.approx(loss, rel=1e-4)
    config = EvaluateConfig(
        models=(str(run.path),), dataset="sst2", data_dir=sst2_dir, precision="fp32", latency=False
    )
    (score,) = evaluate(config, notes).scores
    assert score.value("loss") == pytest.approx(loss, rel=1e-4)
    assert score.value("accuracy") == float((logits.argmax(dim=1) == labels).float().mean())


def test_training_in_a_format_that_the_model_cannot_compute_in_is_refused_before_an_epoch(
    fnet_dir: Path, sst2_dir: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = QUICK | {"dataset": "sst2", "data_dir": sst2_dir, "precision": "bf16"}
    with pytest.raises(UserError, match="--precision fp32"):
        train(TrainConfig(**options, model=str(fnet_dir), output_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_compared_rows_are_of_different_lengths() -> None:
    """Rows of one length would not show a pattern of attention that changes with the length."""
    rows = encode(tiny_tokenizer(), Texts(TEXTS), max_length=48, model=bert())
    read: list[int] = []
    model = bert()
    model.register_forward_pre_hook(
        lambda *inputs: read.append(inputs[2]["input_ids"].shape[1]), with_kwargs=True
    )
    padding_changes_logits(model, rows)
    assert read[-1] == int(rows.lengths.max()) and len(set(read)) >= 4
    assert np.all(np.diff(read) >= 0)
