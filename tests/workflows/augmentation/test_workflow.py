"""`augment` from end to end: nothing comes up that must not, and the same command makes the same file."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import BAD, GOOD, Notes, lively, pair_rows, rows, tiny_bert, tiny_tokenizer, write_jsonl
from transformers import BertForMaskedLM

from distilkit import AugmentConfig, TrainConfig, UserError, augment
from distilkit.data import sources as datasets
from distilkit.data.duplicates import content_keys
from distilkit.data.texts import Texts
from distilkit.progress import Reporter
from distilkit.runs.drafts import UNFINISHED
from distilkit.workflows.augmentation import blocks as blocks_augmentation
from distilkit.workflows.augmentation import workflow

pytest.importorskip("textblob", reason="the extra `augment` is not installed")


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """60 training rows of few short words, in four blocks, so that much of what is made is there already."""
    monkeypatch.setattr(blocks_augmentation, "BLOCK", 45)
    random.seed(3)
    words = ["a", "great", "dull", "film", "story", "truly", "fun", "boring"]
    texts = list(dict.fromkeys(" ".join(random.choices(words, k=random.randint(1, 4))) for _ in range(160)))
    parts = {
        "train": texts[:60],
        "validation": texts[60:80],
        "test": [text.upper() for text in texts[80:100]],
    }
    for split, chosen in parts.items():
        labels = [-1 if split == "test" else number % 2 for number in range(len(chosen))]
        write_jsonl(
            tmp_path / "data" / f"{split}.jsonl",
            [{"sentence": text, "label": label} for text, label in zip(chosen, labels, strict=True)],
        )
    return tmp_path / "data"


def made(folder: Path, data: Path, name: str = "new", **options: Any) -> pa.Table:
    """The rows that `augment` makes of SST-2-like data."""
    config = AugmentConfig(
        **{"dataset": "sst2", "data_dir": data, "output": folder / f"{name}.parquet"} | options
    )
    augment(config)
    return pq.read_table(config.output)


def texts_of(data: Path, split: str) -> list[str]:
    lines = (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["sentence"] for line in lines]


def test_no_row_is_one_of_train_validation_or_test_or_comes_twice(many: Path, tmp_path: Path) -> None:
    """Leaked test rows would flatter every student that is trained on the file."""
    table = made(tmp_path, many)
    keys = content_keys(Texts(table["sentence"].to_pylist()))
    assert len(keys) == len(set(keys)) > 100
    for split in ("train", "validation", "test"):
        assert not set(content_keys(Texts(texts_of(many, split)))) & set(keys), split


def test_the_result_says_what_was_dropped_and_it_adds_up(many: Path, tmp_path: Path) -> None:
    config = AugmentConfig(dataset="sst2", data_dir=many, output=tmp_path / "new.parquet", variants=30)
    result = augment(config)
    assert set(result.dropped) == {"repeated", "test", "train", "unchanged", "validation"}
    assert result.rows + sum(result.dropped.values()) == 60 * 30
    table = pq.read_table(config.output)
    assert result.rows == len(table) == sum(result.rules.values())
    assert result.sources == 60 and result.rows_per_second
    document = json.loads(json.dumps(result.document()))
    assert (document["schema"], document["path"]) == ("distilkit.augmentation/1", str(config.output))


def test_every_row_says_what_it_was_made_of(many: Path, tmp_path: Path) -> None:
    table = made(tmp_path, many, seed=5, mask_token="<mask>")
    assert table.column_names == ["sentence", "source", "rule", "seed"]
    assert set(table["seed"].to_pylist()) == {5}
    train = texts_of(many, "train")
    for row in table.to_pylist():
        old, new = train[row["source"]].split(), row["sentence"].split()
        assert ("mask" in row["rule"]) == ("<mask>" in new)
        assert ("ngram" in row["rule"]) == (len(new) < len(old))
    metadata = json.loads(table.schema.metadata[b"distilkit"])
    assert metadata["config"]["p_pos"] == 0.1 and metadata["config"]["seed"] == 5
    assert metadata["tagger"].startswith("textblob ") and set(metadata["texts"]) == {
        "train",
        "validation",
        "test",
    }


def test_the_same_command_makes_the_same_bytes_and_another_seed_others(many: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made(tmp_path, many, name, seed=seed)
    a, b, c = ((tmp_path / f"{name}.parquet").read_bytes() for name in "abc")
    assert a == b != c


class Stop(Reporter):
    """Ctrl-C after so many blocks."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        if task == "rows augmented":
            assert 0 < done < total == 60
            self.blocks -= 1
            if not self.blocks:
                raise KeyboardInterrupt


def test_a_command_that_was_killed_goes_on_and_makes_the_same_file(many: Path, tmp_path: Path) -> None:
    """What is dropped in a later block depends on the earlier ones, made by another process or not."""
    made(tmp_path, many, "whole")
    config = AugmentConfig(dataset="sst2", data_dir=many, output=tmp_path / "new.parquet")
    stop = Stop(2)
    with pytest.raises(KeyboardInterrupt):
        augment(config, stop)
    parts = tmp_path / "new.parquet.parts"
    assert "finished blocks are kept" in stop.notes[-1] and str(parts) in stop.notes[-1]
    assert not config.output.exists()
    kept = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.parquet")}
    assert sorted(kept) == ["000000.parquet", "000001.parquet"]
    (parts / "000001.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(KeyboardInterrupt):
        augment(config, Stop(3))
    assert (parts / "000000.parquet").stat().st_mtime_ns == kept["000000.parquet"], "it was made anew"
    augment(config)
    assert config.output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not parts.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "new.parquet", "whole.parquet"}


def test_blocks_of_another_command_are_refused_and_dropped_when_told(many: Path, tmp_path: Path) -> None:
    """Half a file of one seed and half of another would pass for either."""
    config = {"dataset": "sst2", "data_dir": many, "output": tmp_path / "new.parquet"}
    with pytest.raises(KeyboardInterrupt):
        augment(AugmentConfig(**config), Stop(1))
    with pytest.raises(UserError, match=r"new\.parquet\.parts .*another seed\. .*--overwrite"):
        augment(AugmentConfig(**config, seed=3))
    augment(AugmentConfig(**config, seed=3, overwrite=True))
    made(tmp_path, many, "other", seed=3)
    assert (tmp_path / "new.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_the_size_of_a_block_changes_no_row(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = made(tmp_path, many, "parts")
    monkeypatch.setattr(blocks_augmentation, "BLOCK", 1 << 14)
    whole = made(tmp_path, many, "whole")
    assert whole.equals(parts)
    groups = [pq.ParquetFile(tmp_path / f"{name}.parquet").num_row_groups for name in ("parts", "whole")]
    assert groups == [4, 1]


def test_blocks_of_other_texts_are_refused(many: Path, tmp_path: Path) -> None:
    config = AugmentConfig(dataset="sst2", data_dir=many, output=tmp_path / "new.parquet")
    with pytest.raises(KeyboardInterrupt):
        augment(config, Stop(1))
    write_jsonl(many / "test.jsonl", [{"sentence": "a great story", "label": -1}])
    with pytest.raises(UserError, match=r"another texts"):
        augment(config)


def test_a_folder_that_holds_something_else_is_left_alone(many: Path, tmp_path: Path) -> None:
    parts = tmp_path / "new.parquet.parts"
    parts.mkdir()
    (parts / "notes.parquet").write_text("mine")
    with pytest.raises(UserError, match=r"exists and has no finished blocks in it"):
        made(tmp_path, many, overwrite=True)
    assert [file.read_text() for file in parts.iterdir()] == ["mine"]


def test_what_was_killed_before_its_first_block_is_not_in_the_way(many: Path, tmp_path: Path) -> None:
    """A second command may look while the first writes what its blocks will be made of."""
    parts = tmp_path / "new.parquet.parts"
    parts.mkdir()
    (parts / f".made-of.json.1.ab{UNFINISHED}").write_text("{")
    assert len(made(tmp_path, many)) > 100 and not parts.exists()


def test_a_damaged_block_is_made_again(many: Path, tmp_path: Path) -> None:
    whole = made(tmp_path, many, "whole")
    config = AugmentConfig(dataset="sst2", data_dir=many, output=tmp_path / "new.parquet")
    with pytest.raises(KeyboardInterrupt):
        augment(config, Stop(2))
    block = min((tmp_path / "new.parquet.parts").glob("*.parquet"))
    written = bytearray(block.read_bytes())
    written[40:70] = bytes(30)
    block.write_bytes(written)
    with pytest.raises((OSError, pa.ArrowException)):
        pq.read_table(block)
    augment(config)
    assert pq.read_table(config.output).equals(whole)


def test_two_at_once_do_not_write_the_same_file(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AugmentConfig(dataset="sst2", data_dir=many, output=tmp_path / "new.parquet")

    read: list[Any] = []
    load = datasets.load_for_augmentation
    monkeypatch.setattr(datasets, "load_for_augmentation", lambda *given: read.append(given) or load(*given))

    class Another(Reporter):
        def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
            if task == "rows augmented" and done < total:
                with pytest.raises(UserError, match="another process is writing it"):
                    augment(config)

    augment(config, Another())
    assert len(read) == 1, "the other is told before it reads and tags all texts"
    assert len(pq.read_table(config.output)) > 100


def test_an_output_that_came_meanwhile_is_not_replaced(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody said --overwrite."""
    config = AugmentConfig(dataset="sst2", data_dir=many, output=tmp_path / "new.parquet")
    identity = workflow.describe_origin

    def late(*arguments: Any) -> str:
        config.output.write_text("another's")
        return identity(*arguments)

    monkeypatch.setattr(workflow, "describe_origin", late)
    with pytest.raises(UserError, match="is there already"):
        augment(config)
    assert (
        config.output.read_text() == "another's" and not config.output.with_suffix(".parquet.parts").exists()
    )


def test_pairs_vary_first_second_and_both(tmp_path: Path, mrpc_dir: Path) -> None:
    table = made(tmp_path, mrpc_dir, dataset="mrpc", variants=9)
    assert table.column_names == ["sentence1", "sentence2", "source", "rule", "seed"]
    train = pair_rows()
    kinds = set()
    for row in table.to_pylist():
        old = train[row["source"]]
        changed = tuple(row[name] != old[name] for name in ("sentence1", "sentence2"))
        assert any(changed)
        kinds.add(changed)
        assert ("mask" in row["rule"]) == ("[MASK]" in f"{row['sentence1']} {row['sentence2']}".split())
    assert kinds == {(True, False), (False, True), (True, True)}


def test_equal_texts_in_other_rows_or_on_the_other_side_are_varied_in_another_way(tmp_path: Path) -> None:
    """With one stream for all of them, what the second copy gives was there already."""
    text = "a truly moving story , badly told and great fun"
    write_jsonl(tmp_path / "one" / "train.jsonl", [{"text": text}] * 20)
    table = made(tmp_path, tmp_path / "one", dataset=None, p_ngram=0)
    assert len(table) > 60 and len(set(table["source"].to_pylist())) > 10
    write_jsonl(tmp_path / "two" / "train.jsonl", [{"a": text, "b": text}] * 20)
    pairs = made(tmp_path, tmp_path / "two", "pairs", dataset=None, text_column="a", text_pair_column="b")
    both = [row for row in pairs.to_pylist() if text not in (row["a"], row["b"])]
    assert len(both) > 10 and sum(row["a"] == row["b"] for row in both) < len(both) / 3


def test_a_validation_split_that_is_cut_from_train_is_not_augmented(tmp_path: Path) -> None:
    """Variants of the rows that every run validates on would be half a leak."""
    data = tmp_path / "data"
    write_jsonl(data / "train.jsonl", rows(5))
    notes = Notes()
    config = AugmentConfig(dataset="sst2", data_dir=data, output=tmp_path / "new.parquet")
    result = augment(config, notes)
    fitted = datasets.load_for_training(
        TrainConfig(dataset="sst2", data_dir=data, output_dir=tmp_path / "run"), None
    )
    assert result.sources == len(fitted.texts("train").first) == 36
    assert any("has no validation split" in note for note in notes.notes)
    loaded = datasets.load_for_augmentation(config, None)
    assert list(fitted.texts("train").first) == [rows(5)[row]["sentence"] for row in loaded.rows]
    assert set(pq.read_table(config.output)["source"].to_pylist()) <= set(loaded.rows.tolist())


def test_a_sample_is_the_one_that_training_takes_and_keeps_the_files_row_numbers(
    many: Path, tmp_path: Path
) -> None:
    fitted = datasets.load_for_training(TrainConfig(dataset="sst2", data_dir=many, output_dir="o"), 20)
    config = AugmentConfig(
        dataset="sst2", data_dir=many, output=tmp_path / "new.parquet", max_train_samples=20
    )
    loaded = datasets.load_for_augmentation(config, 20)
    train = texts_of(many, "train")
    assert list(fitted.texts("train").first) == [train[row] for row in loaded.rows]
    result = augment(config)
    sources = pq.read_table(config.output)["source"].to_numpy()
    assert result.sources == 20 and np.isin(sources, loaded.rows).all()
    known = set(content_keys(Texts(train)))
    assert not known & set(content_keys(Texts(pq.read_table(config.output)["sentence"].to_pylist())))


def test_it_works_without_any_label_and_without_other_splits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data" / "train.jsonl", [{"text": text} for text in (*GOOD, *BAD)])
    table = made(tmp_path, tmp_path / "data", dataset=None)
    assert table.column_names == ["text", "source", "rule", "seed"] and len(table) > 40


def test_a_text_column_with_the_name_of_ours_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data" / "train.jsonl", [{"source": text} for text in GOOD])
    with pytest.raises(UserError, match="'source'"):
        made(tmp_path, tmp_path / "data", dataset=None, text_column="source")


def test_nothing_is_left_when_the_disk_refuses(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workflow.run, "write_whole", full)
    with pytest.raises(UserError, match=r"--output .*new\.parquet: No space left"):
        made(tmp_path, many)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.fixture(scope="session")
def mlm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny masked language model of the test sentences' words."""
    folder = tmp_path_factory.mktemp("mlm")
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny_bert().config)
    lively(model, 8).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_tinyberts_rule_makes_the_same_file_again_and_when_it_was_stopped(
    many: Path, tmp_path: Path, mlm_dir: Path
) -> None:
    options = {"rule": "tinybert", "mlm": str(mlm_dir), "precision": "fp32", "top_k": 3}
    table = made(tmp_path, many, "a", **options)
    config = AugmentConfig(dataset="sst2", data_dir=many, output=tmp_path / "b.parquet", **options)
    with pytest.raises(KeyboardInterrupt):
        augment(config, Stop(2))
    augment(config)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert set(table["rule"].to_pylist()) == {"mlm"}, "every word of these texts is one of the tokenizer's"
    known = {
        key for split in ("train", "validation", "test") for key in content_keys(Texts(texts_of(many, split)))
    }
    assert len(table) > 200 and not known & set(content_keys(Texts(table["sentence"].to_pylist())))
    train = texts_of(many, "train")
    for row in table.to_pylist():
        assert len(row["sentence"].split()) == len(train[row["source"]].split())
    metadata = json.loads(table.schema.metadata[b"distilkit"])
    assert len(metadata["masked language model"]) == 64 and metadata["precision used"] == "fp32"


def test_words_that_the_model_does_not_know_are_replaced_by_their_neighbours(
    tmp_path: Path, mlm_dir: Path
) -> None:
    data = tmp_path / "data"
    write_jsonl(data / "train.jsonl", [{"text": "a zebra film ."}, {"text": "the quagga is great"}])
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("zebra 1 0\nquagga 1 0.1\nhorse 0.9 0.2\na 0 1\nis -1 0\n")
    options = {"rule": "tinybert", "mlm": str(mlm_dir), "embeddings": str(vectors), "top_k": 2}
    table = made(tmp_path, data, dataset=None, precision="fp32", **options)
    near = {"zebra": {"quagga", "horse"}, "quagga": {"zebra", "horse"}}
    olds = [["a", "zebra", "film", "."], ["the", "quagga", "is", "great"]]
    seen = set()
    for row in table.to_pylist():
        rules = set(row["rule"].split("+"))
        for old, new in zip(olds[row["source"]], row["text"].split(), strict=True):
            if old in near:
                assert new in near[old] | {old}
                assert (new != old) == ("embeddings" in rules)
                seen.add(new)
            assert old != "." or new == "."
    assert seen == {"zebra", "quagga", "horse"}


def test_embeddings_alone_replace_every_word_that_has_a_vector(tmp_path: Path, bert_dir: Path) -> None:
    """The table of a fine-tuned model will do: no head is needed."""
    data = tmp_path / "data"
    write_jsonl(data / "train.jsonl", [{"text": text} for text in GOOD])
    options = {"rule": "tinybert", "candidates": "embeddings", "embeddings": str(bert_dir), "top_k": 3}
    table = made(tmp_path, data, dataset=None, **options)
    assert set(table["rule"].to_pylist()) == {"embeddings"} and len(table) > 20


def test_pairs_vary_by_candidates_too(tmp_path: Path, mrpc_dir: Path, mlm_dir: Path) -> None:
    options = {"rule": "tinybert", "mlm": str(mlm_dir), "precision": "fp32", "top_k": 3, "variants": 6}
    table = made(tmp_path, mrpc_dir, dataset="mrpc", **options)
    train = pair_rows()
    kinds = {
        tuple(row[name] != train[row["source"]][name] for name in ("sentence1", "sentence2"))
        for row in table.to_pylist()
    }
    assert kinds == {(True, False), (False, True), (True, True)}


def test_the_training_data_is_never_the_output(tmp_path: Path) -> None:
    """`--data-dir data -o data/train.parquet --overwrite` would replace the training split."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.parquet").write_bytes(b"mine")
    with pytest.raises(UserError, match="is read from --data-dir"):
        augment(AugmentConfig(data_dir=data, output=data / "train.parquet", overwrite=True))
    assert (data / "train.parquet").read_bytes() == b"mine"
