"""Transformers through torch's exporter: the sizes of the example must not be frozen into the graph."""

from typing import Any

import numpy as np
import pytest
import torch
from conftest import family, lively, tiny_bert
from graph_batches import check_inputs, open_session, run_torch

from distilkit.errors import UserError
from distilkit.workflows.exporting.transformer_graph import build_transformer_graph


def make_model(kind: str) -> Any:
    return lively(tiny_bert() if kind == "bert" else family(kind), factor=4).eval()


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_logits_are_those_of_torch_for_any_number_of_rows_and_tokens(kind: str) -> None:
    model = make_model(kind)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if kind == "bert" else [])]
    session = open_session(build_transformer_graph(model, names, kind))
    check_inputs(session, names)
    pad = model.config.pad_token_id
    for rows, longest in ((1, 1), (1, 12), (2, 5), (7, 20)):
        generator = np.random.default_rng(rows)
        mask = (np.arange(longest)[None] < generator.integers(1, longest + 1, rows)[:, None]).astype(np.int64)
        ids = np.where(mask == 1, generator.integers(2, 20, (rows, longest)), pad)
        batch = {"input_ids": ids, "attention_mask": mask}
        if kind == "bert":
            batch["token_type_ids"] = (np.arange(longest)[None] > longest // 2) * mask
        assert session.run(["logits"], batch)[0] == pytest.approx(run_torch(model, batch), abs=1e-4)


def test_the_model_stays_as_it_is() -> None:
    """The same object answers for torch afterwards: eager attention and fp32 are the graph's affair."""
    model = make_model("bert")
    before = model.config._attn_implementation
    build_transformer_graph(model, ["input_ids", "attention_mask", "token_type_ids"], "bert")
    assert model.config._attn_implementation == before


def test_what_torch_cannot_export_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator " + "x" * 2000)

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"teacher: torch cannot export a BertForSequence.*no such") as caught:
        build_transformer_graph(make_model("bert"), ["input_ids", "attention_mask"], "teacher")
    assert len(str(caught.value)) < 1000 and "--student bilstm" in str(caught.value)
