"""A checkpoint that does not hold all of the model is refused, and what the model does not use is named."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import family, tiny_bert, tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForTokenClassification

from distilkit.errors import UserError
from distilkit.models.checkpoints import check_task, find_prefix
from distilkit.models.classifier import load_classifier
from distilkit.models.loading import load_for_training, load_trained, save_model
from distilkit.runs.locating import Source, find_model

NAMES = ("negative", "positive")
KEYS = ("bert.embeddings.word_embeddings.weight", "classifier.weight")


def saved(folder: Path, model: Any = None, **renamed: Any) -> Source:
    """A folder with a BERT, its weights named by `rename(key)`, without those that become `None`."""
    save_model(model or tiny_bert(), tiny_tokenizer(), folder)
    rename = renamed.get("rename", lambda key: key)
    weights = {rename(key): value for key, value in load_file(folder / "model.safetensors").items()}
    kept = {key: value for key, value in weights.items() if key is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return find_model(str(folder))


@pytest.mark.parametrize(
    ("prefix", "advice"),
    [
        ("_orig_mod.", "torch.compile leaves them. Save the model inside: model._orig_mod.save_pretrained("),
        ("module.", "DataParallel leaves them. Save the model inside: model.module.save_pretrained("),
        ("module._orig_mod.", "DataParallel leaves them. Save the model inside: model.module._orig_mod.save"),
        ("base_model.model.", "PEFT leaves them. Save the merged model: model.merge_and_unload()"),
        ("net.", "take that away"),
    ],
)
@pytest.mark.parametrize("load", ["trained", "training"])
def test_a_wrappers_prefix_is_named_and_nothing_is_trained_from_noise(
    load: str, prefix: str, advice: str, tmp_path: Path
) -> None:
    """No key matches then: all weights would be random, and training would start from them without a word."""
    source = saved(tmp_path, rename=lambda key: prefix + key)
    with pytest.raises(UserError) as refused:
        if load == "trained":
            load_trained(source)
        else:
            load_for_training(source, NAMES)
    message = str(refused.value)
    assert str(tmp_path) in message and repr(prefix) in message and advice in message
    assert len(message) < 1000


def test_the_prefix_is_found_where_the_checkpoint_is_of_an_encoder_alone() -> None:
    """DataParallel around a bare encoder: `module.embeddings` stands for `bert.embeddings`."""
    assert find_prefix(KEYS, ["module.embeddings.word_embeddings.weight"], "bert") == "module."
    assert find_prefix(KEYS, [f"_orig_mod.{KEYS[0]}"], "bert") == "_orig_mod."
    assert find_prefix(KEYS, ["cls.predictions.bias"], "bert") is None


@pytest.mark.parametrize("load", ["trained", "training"])
def test_a_layer_that_the_checkpoint_lacks_is_refused(load: str, tmp_path: Path) -> None:
    """Random weights in one layer of an encoder cost accuracy that nobody would ever miss."""
    source = saved(tmp_path, rename=lambda key: None if ".layer.1." in key else key)
    with pytest.raises(
        UserError, match=r"lacks 16 weights of the encoder \(bert\.encoder\.layer\.1.* \d+ more"
    ):
        if load == "trained":
            load_trained(source)
        else:
            load_for_training(source, NAMES)


def test_encoder_weights_of_another_shape_are_refused_before_training(tmp_path: Path) -> None:
    """`ignore_mismatched_sizes` is meant for heads; it would fill an encoder with noise as gladly."""
    config = saved(tmp_path / "wide").folder / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"intermediate_size": 48', '"intermediate_size": 32'), encoding="utf-8")
    with pytest.raises(UserError, match=r"intermediate\.dense\.(bias|weight) is 48.* and 32"):
        load_for_training(find_model(str(tmp_path / "wide")), NAMES)


def test_a_missing_pooler_and_head_are_new_and_no_fault(tmp_path: Path) -> None:
    """A checkpoint of masked language modelling has neither; refusing it would refuse most of the Hub."""
    source = saved(tmp_path, rename=lambda key: None if "pooler" in key or "classifier" in key else key)
    loaded = load_for_training(source, NAMES)
    assert len(loaded.new) == 4 and not loaded.unused


def test_layers_that_the_config_leaves_out_are_named(tmp_path: Path) -> None:
    """A model cut by its config.json answers as another model, and its scores would pass for the whole's."""
    source = saved(tmp_path, tiny_bert(layers=3))
    config = source.folder / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"num_hidden_layers": 3', '"num_hidden_layers": 2'), encoding="utf-8")
    (note,) = load_classifier(source).notes
    assert "bert.encoder.layer.2.attention" in note and " more" in note
    loaded = load_for_training(source, NAMES)
    assert len(loaded.unused) == 16 and " more" in loaded.remarks


def test_a_head_of_another_size_than_the_classes_is_named_with_both(tmp_path: Path) -> None:
    source = saved(tmp_path, tiny_bert(names=("a", "b", "c")))
    config = source.folder / "config.json"
    text = config.read_text(encoding="utf-8").replace(',\n    "2": "c"', "").replace(',\n    "c": 2', "")
    config.write_text(text, encoding="utf-8")
    with pytest.raises(
        UserError, match=r"head \(classifier.*\) has 3 outputs, .* names 2 classes \(.?a.?, .?b.?\)"
    ):
        load_trained(source)


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra", "mpnet", "bilstm"])
def test_what_was_saved_by_a_class_of_its_own_loads_without_remarks(kind: str, tmp_path: Path) -> None:
    model = family(kind, pad_token_id=0) if kind != "roberta" else family(kind)
    source = saved(tmp_path, model)
    assert not load_classifier(source).notes
    loaded = load_for_training(source, ("LABEL_0", "LABEL_1"))
    assert not loaded.new and not loaded.unused and not loaded.remarks
    assert torch.equal(next(loaded.model.parameters()), next(model.parameters()))


def test_a_teacher_of_several_labels_at_once_is_told_apart(tmp_path: Path) -> None:
    """Its scores are sigmoids; read by softmax, they are other probabilities."""
    model = tiny_bert()
    model.config.problem_type = "multi_label_classification"
    (note,) = load_classifier(saved(tmp_path, model)).notes
    assert "several labels at once" in note and "softmax" in note


@pytest.mark.parametrize(("kind", "is_like_a_classifier"), [("modernbert", True), ("bert", False)])
def test_a_head_for_another_task_is_refused_and_can_be_fine_tuned(
    kind: str, is_like_a_classifier: bool, tmp_path: Path
) -> None:
    """A ModernBERT for tokens has the weights of one for texts, by name and shape: it would be scored."""
    sizes = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = dict.fromkeys(
        ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1
    )
    config = AutoConfig.for_model(kind, intermediate_size=8, **sizes, **special)
    source = saved(tmp_path, AutoModelForTokenClassification.from_config(config))
    loaded = load_for_training(source, ("LABEL_0", "LABEL_1"))
    assert (loaded.new == []) is is_like_a_classifier
    with pytest.raises(
        UserError, match=r"for classifying tokens \(\w+ in its config\.json\).*distilkit train"
    ):
        load_trained(source)


@pytest.mark.parametrize(
    "architectures", [None, [], ["BertForSequenceClassification"], ["MyClassifier"], [1]]
)
def test_a_head_of_an_unknown_class_is_taken_for_a_classifier(architectures: Any) -> None:
    check_task("x", SimpleNamespace(architectures=architectures))


def test_an_adapter_that_was_saved_unmerged_is_named(tmp_path: Path) -> None:
    """The advice to put config and weights of one model together would lead nowhere."""
    source = saved(tmp_path, rename=lambda key: key.replace("query.weight", "query.base_layer.weight"))
    with pytest.raises(UserError, match=r"lacks 2 weights .*'\.base_layer\.' .*merge_and_unload"):
        load_trained(source)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_refuses_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    """The first loss would be NaN, and the advice a lower learning rate, which mends nothing."""
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.bias[1] = value
    with pytest.raises(
        UserError, match=r"1 of its weights hold NaN or infinite numbers \(classifier\.bias\)"
    ):
        load_for_training(saved(tmp_path, model), NAMES)


def test_integers_are_not_taken_for_the_weights_that_they_stand_for(tmp_path: Path) -> None:
    """transformers loads them as they are: -127 to 127 where the model had hundredths, and scores it."""
    source = saved(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.weight"] = (weights["classifier.weight"] * 1000).to(torch.int8)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for load in (load_trained, lambda source: load_for_training(source, NAMES)):
        with pytest.raises(UserError, match=r"quantized weights \(classifier\.weight\).*quantization_config"):
            load(source)
