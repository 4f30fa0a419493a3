"""A folder that transformers cannot load is refused with what it is, not with a message of transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Call, tiny_bert, tiny_tokenizer

from distilkit.errors import UserError
from distilkit.models.classifier import load_classifier
from distilkit.models.loading import load_config, load_tokenizer, match_tokenizer, save_model
from distilkit.runs.locating import Source, find_model


def edited(folder: Path, file: str = "config.json", **values: Any) -> Source:
    """A BERT with these values in one of its JSON files."""
    save_model(tiny_bert(), tiny_tokenizer(), folder)
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(content | values), encoding="utf-8")
    return find_model(str(folder))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named_with_the_command_that_fetches_the_file(file: str, tmp_path: Path) -> None:
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    (tmp_path / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    with pytest.raises(UserError, match=rf"{file} is a Git LFS pointer.*git lfs pull"):
        load_classifier(find_model(str(tmp_path)))


@pytest.mark.parametrize("has_config", [False, True])
def test_an_adapter_without_its_base_model_is_named(has_config: bool, tmp_path: Path) -> None:
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter_model.safetensors")
    base = {"peft_type": "LORA", "base_model_name_or_path": "bert"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(base), encoding="utf-8")
    if not has_config:
        (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"PEFT adapter .*merge_and_unload"):
        load_classifier(find_model(str(tmp_path)))


def test_code_of_a_models_own_is_never_run_nor_asked_about(
    tmp_path: Path, console: Call, sst2_dir: Path
) -> None:
    """On a terminal transformers would ask, and `y` would run whatever came with the folder."""
    auto = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
    edited(tmp_path, model_type="no-such", auto_map=auto)
    (tmp_path / "code.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    answer = console("evaluate", str(tmp_path), "--data-dir", str(sst2_dir), "--dataset", "sst2")
    assert answer.code == 2 and not answer.out
    assert "code that comes with it" in answer.err and "trust_remote_code" not in answer.err


@pytest.mark.parametrize("value", [["negative", "positive"], "negative", 2])
def test_id2label_that_is_no_mapping_is_shown_with_one_that_is(value: Any, tmp_path: Path) -> None:
    source = edited(tmp_path, id2label=value)
    for load in (load_config, load_tokenizer):  # `train` loads the tokenizer first
        with pytest.raises(UserError, match=r'id2label.*"0": "negative"'):
            load(source)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_input_names": ["attention_mask"]}, "input_ids"),
        ({"model_input_names": "input_ids"}, "list"),
        ({"model_input_names": 3}, "model_input_names"),
        ({"model_max_length": "long"}, "model_max_length"),
        ({"model_max_length": -1}, "model_max_length"),
        ({"model_max_length": 0}, "model_max_length"),
        ({"model_max_length": [64]}, "model_max_length"),
        ({"padding_side": "up"}, "tokenizer cannot be loaded"),
        ({"truncation_side": 3}, "tokenizer cannot be loaded"),
    ],
)
def test_an_edited_tokenizer_config_is_named_with_the_key(
    values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """Otherwise it is a KeyError or a TypeError where rows are encoded."""
    with pytest.raises(UserError, match=words):
        load_tokenizer(edited(tmp_path, "tokenizer_config.json", **values))


def test_a_limit_that_json_writes_as_a_float_is_a_number_of_tokens(tmp_path: Path) -> None:
    for value, limit in ((64.0, 64), (1e30, int(1e30))):
        tokenizer = load_tokenizer(edited(tmp_path, "tokenizer_config.json", model_max_length=value))
        assert tokenizer.model_max_length == limit and isinstance(tokenizer.model_max_length, int)


@pytest.mark.parametrize(
    "values",
    [{"chunk_size_feed_forward": "x"}, {"num_attention_heads": -1}, {"num_attention_heads": 0}],
)
def test_sizes_that_no_model_can_compute_with_are_refused_on_load(
    values: dict[str, Any], tmp_path: Path
) -> None:
    """transformers builds such a model all the same, and its first batch is a traceback."""
    with pytest.raises(UserError, match=str(tmp_path)):
        load_classifier(edited(tmp_path, **values))


def test_a_template_with_a_token_that_is_not_in_the_vocabulary_is_refused(tmp_path: Path) -> None:
    """tokenizers panics at the first text, with an exception that no `except Exception` catches."""
    file = edited(tmp_path).folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["post_processor"]["special_tokens"] = {}
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="its tokenizer cannot be loaded"):
        load_tokenizer(find_model(str(tmp_path)))


def cut(file: Path) -> None:
    """Keep the first half of a file, as a download that was broken off does."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def pickle_weights(folder: Path) -> Path:
    """Keep the weights in pytorch_model.bin alone."""
    torch.save(tiny_bert().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def shard_weights(folder: Path) -> Path:
    """Keep the weights in several files, and return their index."""
    (folder / "model.safetensors").unlink()
    tiny_bert().save_pretrained(folder, max_shard_size="8KB")
    return folder / "model.safetensors.index.json"


def link_weights(folder: Path) -> None:
    """Leave a link whose file is gone, as in a cache of the Hub that was copied without its blobs."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/abc")


def pickle_code(folder: Path) -> None:
    """Put an object into pytorch_model.bin that only unpickling its class would read."""
    torch.save({"weights": Path("x")}, pickle_weights(folder))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights cut": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is damaged or cut"),
    "weights empty": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        "is damaged or cut off",
    ),
    "weights a dead link": (link_weights, "a link to ../../blobs/abc, which is not there"),
    "config cut": (lambda folder: cut(folder / "config.json"), "config.json cannot be read as JSON"),
    "tokenizer cut": (lambda folder: cut(folder / "tokenizer.json"), "tokenizer.json cannot be read as JSON"),
    "pickle cut": (lambda folder: cut(pickle_weights(folder)), "pytorch_model.bin is damaged or cut off"),
    "pickle of code": (pickle_code, "holds more than weights"),
    "shard missing": (
        lambda folder: (shard_weights(folder).parent / "model-00002-of-00008.safetensors").unlink(),
        r"1 of its 8 files of weights are missing \(model-00002-of-00008\.safetensors\)",
    ),
    "index missing": (lambda folder: shard_weights(folder).unlink(), "but not model.safetensors.index.json"),
    "index cut": (lambda folder: cut(shard_weights(folder)), "index.json cannot be read as JSON"),
    "index of nothing": (
        lambda folder: shard_weights(folder).write_text('{"weight_map": 3}'),
        "index.json is damaged",
    ),
    "gguf": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.gguf"),
        r"only model.gguf \(a GGUF file",
    ),
    "half a download": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.safetensors.incomplete"),
        "a download that was broken off",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_folder_is_named_with_its_file(damage: str, tmp_path: Path) -> None:
    """transformers names no file ("header too small"), or advises to run what a pickle holds."""
    damage_folder, words = DAMAGES[damage]
    damage_folder(edited(tmp_path).folder)
    with pytest.raises(UserError, match=words) as refused:
        load_classifier(find_model(str(tmp_path)))
    assert str(refused.value).startswith(str(tmp_path)) and "weights_only" not in str(refused.value)


@pytest.mark.parametrize("keep", [pickle_weights, shard_weights])
def test_pickled_and_sharded_weights_are_loaded(keep: Callable[[Path], Path], tmp_path: Path) -> None:
    keep(edited(tmp_path).folder)
    model = load_classifier(find_model(str(tmp_path))).model
    torch.testing.assert_close(model.state_dict(), tiny_bert().state_dict())


def test_train_blames_the_config_and_not_the_tokenizer_that_reads_it(
    tmp_path: Path, console: Call, sst2_dir: Path
) -> None:
    edited(tmp_path / "bert", dtype="float99")
    options = ("--dataset", "sst2", "--data-dir", str(sst2_dir), "--output-dir", str(tmp_path / "run"))
    answer = console("train", "--model", str(tmp_path / "bert"), *options)
    assert answer.code == 2 and "its config.json cannot be loaded" in answer.err


def test_a_linked_folder_is_read_and_a_dead_link_is_named(tmp_path: Path) -> None:
    """A dead link was not found, with its own name as what was meant."""
    edited(tmp_path / "bert")
    (tmp_path / "link").symlink_to(tmp_path / "bert")
    assert load_classifier(find_model(str(tmp_path / "link"))).class_names == ("negative", "positive")
    (tmp_path / "dead").symlink_to("nowhere")
    with pytest.raises(UserError, match="dead is a link to nowhere, which is not there"):
        find_model(str(tmp_path / "dead"))


def test_trying_a_model_out_draws_no_random_number(tmp_path: Path) -> None:
    """Dropout in the first text would change what every training after it draws."""
    model = load_classifier(edited(tmp_path)).model.train()
    before = torch.get_rng_state()
    match_tokenizer(model, tiny_tokenizer(), "the model")
    assert torch.equal(torch.get_rng_state(), before) and model.training
