"""The teacher's logits are its own, the same on every pass, and land on the row they belong to."""

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, ROOT, lively, tiny_bert, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PIPE, WarmProcess
from torch import Tensor

from distilkit.data.encoding import encode
from distilkit.data.texts import Texts
from distilkit.engine.inference.logits import predict_texts
from distilkit.engine.teacher_logits.gathering import TOLERANCES, TeacherLogits, gather_teacher_logits
from distilkit.engine.teacher_logits.keys import describe_teacher, teacher_key
from distilkit.engine.teacher_logits.maintenance import entries
from distilkit.engine.teacher_logits.store import LogitStore
from distilkit.errors import UserError
from distilkit.models.loading import fingerprint, load_tokenizer, load_trained
from distilkit.models.vocabulary import word_tokenizer
from distilkit.runs.locating import find_model

TEXTS = [*GOOD, *BAD]
SECOND = [*BAD, *GOOD]


@pytest.fixture(scope="module")
def teacher() -> Any:
    return lively(tiny_bert())


def run_teacher(
    teacher: Any, texts: list[str], pairs: list[str] | None = None, read: list[int] | None = None
) -> Tensor:
    """The teacher over `texts`, from an empty cache; the rows it really read are added to `read`."""

    def compute(positions: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
        if read is not None:
            read.extend(positions)
        return predict_texts(
            teacher, tiny_tokenizer(), Texts(texts, pairs), positions, max_length=32, precision="fp32"
        )

    with tempfile.TemporaryDirectory() as folder:
        store = LogitStore(Path(folder), "0" * 64, {"name": "teacher", "classes": ["negative", "positive"]})
        gathered = gather_teacher_logits(
            Texts(texts, pairs).keys(), compute, store, precision="fp32", waiting=lambda: None
        )
    return gathered.logits


def own_logits(teacher: Any, texts: list[str], pairs: list[str] | None = None) -> Tensor:
    """What transformers answers for each row alone: the truth that everything here is held against."""
    tokenizer = tiny_tokenizer()
    second = pairs or [None] * len(texts)
    with torch.no_grad():
        return torch.cat(
            [
                teacher(**tokenizer(text, pair, return_tensors="pt")).logits
                for text, pair in zip(texts, second, strict=True)
            ]
        )


def test_two_passes_of_a_teacher_left_in_train_mode_are_identical(teacher: Any) -> None:
    """With dropout on, the student would learn noise, other noise on every pass."""
    assert teacher.config.hidden_dropout_prob > 0
    teacher.train()
    try:
        with torch.no_grad():
            batch = tiny_tokenizer()(TEXTS[0], return_tensors="pt")
            assert not torch.equal(teacher(**batch).logits, teacher(**batch).logits)
        first, second = run_teacher(teacher, TEXTS), run_teacher(teacher, TEXTS)
    finally:
        teacher.eval()
    assert torch.equal(first, second)
    torch.testing.assert_close(first, own_logits(teacher, TEXTS), atol=1e-5, rtol=1e-4)


@given(seed=st.integers(0, 1000), copies=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_logits_follow_their_row_through_shuffling_and_repeats(seed: int, copies: int) -> None:
    """Joined by position, a shuffled row learns from another row's teacher, and nothing fails."""
    order = [row for row in range(len(TEXTS)) for _ in range(copies)]
    random.Random(seed).shuffle(order)
    shuffled = [TEXTS[row] for row in order]

    def compute(positions: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
        backwards = np.asarray(positions)[::-1]
        numbers = [TEXTS.index(shuffled[position]) for position in backwards]
        yield backwards, torch.tensor([[2.0 * number, 0.0] for number in numbers])

    with tempfile.TemporaryDirectory() as folder:
        store = LogitStore(Path(folder), "0" * 64, {"name": "teacher", "classes": ["a", "b"]})
        keys = Texts(shuffled).keys()
        gathered = gather_teacher_logits(keys, compute, store, precision="fp32", waiting=lambda: None)
    assert gathered.logits[:, 0].tolist() == [2.0 * row for row in order]


def test_the_teachers_own_logits_arrive_at_shuffled_and_repeated_rows(teacher: Any) -> None:
    shuffled = [TEXTS[row] for row in [5, 0, 0, 7, 3, 5, 1]]
    logits = run_teacher(teacher, shuffled)
    torch.testing.assert_close(logits, own_logits(teacher, shuffled), atol=1e-5, rtol=1e-4)


def test_a_row_that_repeats_is_read_once(teacher: Any) -> None:
    read: list[int] = []
    logits = run_teacher(teacher, TEXTS * 3, read=read)
    assert len(logits) == 3 * len(TEXTS)
    assert len(read) == len(TEXTS)


def test_pairs_are_joined_by_both_texts(teacher: Any) -> None:
    """By the first text alone, MRPC's repeated sentences would get each other's logits."""
    texts, pairs = [TEXTS[0], TEXTS[0], TEXTS[1]], [SECOND[0], SECOND[1], SECOND[1]]
    expected = own_logits(teacher, texts, pairs)
    torch.testing.assert_close(run_teacher(teacher, texts, pairs), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)


def test_the_teacher_reads_its_own_tokenizer_beside_a_student_with_another(teacher: Any) -> None:
    """Fed the student's ids, the teacher answers about other words, without any error."""
    student_tokenizer = word_tokenizer(TEXTS, 100, pairs=False, max_length=32)
    student_rows = encode(student_tokenizer, Texts(TEXTS), max_length=32, model=teacher)
    teacher_rows = encode(tiny_tokenizer(), Texts(TEXTS), max_length=32, model=teacher)
    assert student_rows.flat["input_ids"].tolist() != teacher_rows.flat["input_ids"].tolist()
    rows = student_rows.join(teacher_logits=run_teacher(teacher, TEXTS))
    expected = own_logits(teacher, TEXTS)
    for row in range(len(TEXTS)):
        batch = rows.batch([row])
        torch.testing.assert_close(batch["teacher_logits"][0], expected[row], atol=1e-5, rtol=1e-4)
        ids = student_tokenizer(TEXTS[row])["input_ids"]
        assert batch["input_ids"][0].tolist() == ids


# The key --------------------------------------------------------------------------------------------------


def described(model: Any = None, tokenizer: Any = None, **changed: Any) -> dict[str, Any]:
    model, tokenizer = model or tiny_bert(), tokenizer or tiny_tokenizer()
    facts = {"model_fingerprint": fingerprint(model), "max_length": 32, "precision": "fp32"} | changed
    return describe_teacher("teacher", model, tokenizer, **facts)


def key_of(*arguments: Any, **changed: Any) -> str:
    return teacher_key(described(*arguments, **changed))


def key_of_folder(folder: Path) -> str:
    source = find_model(str(folder))
    model = load_trained(source)
    about = describe_teacher(source.name, model, load_tokenizer(source), fingerprint(model), 32, "fp32")
    assert about["name"] == str(folder)
    return teacher_key(about)


def test_one_model_in_two_folders_has_one_key(make_bert: Any, tmp_path: Path) -> None:
    """A teacher that was moved, or downloaded by a colleague, would run again."""
    here = make_bert()
    shutil.copytree(here, tmp_path / "there")
    shutil.copytree(here, tmp_path / "saved")
    model = load_trained(find_model(str(here)))
    model.half().float().config.save_pretrained(tmp_path / "saved")  # sets dtype, version and the like anew
    assert key_of_folder(here) == key_of_folder(tmp_path / "there") == key_of_folder(tmp_path / "saved")


def test_other_weights_under_the_same_path_have_another_key(make_bert: Any) -> None:
    """Fine-tuned once more into the same folder, a teacher would be answered for by its former self."""
    folder = make_bert()
    before = key_of_folder(folder)
    model = tiny_bert()
    with torch.no_grad():
        model.classifier.bias[0] += 1e-6
    model.save_pretrained(folder)
    assert key_of_folder(folder) != before


def other_words() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["unheard"])
    return tokenizer


def other_case() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = None
    return tokenizer


def cuts_left() -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.truncation_side = "left"
    return tokenizer


def other_config() -> Any:
    model = tiny_bert()
    model.config.layer_norm_eps = 1e-3
    return model


OTHERS: dict[str, Callable[[], str]] = {
    "max_length": lambda: key_of(max_length=33),
    "precision": lambda: key_of(precision="bf16"),
    "weights": lambda: key_of(tiny_bert(seed=1)),
    "layers": lambda: key_of(tiny_bert(layers=1)),
    "config": lambda: key_of(other_config()),
    "class names": lambda: key_of(tiny_bert(("positive", "negative"))),
    "vocabulary": lambda: key_of(None, other_words()),
    "normalizer": lambda: key_of(None, other_case()),
    "truncation side": lambda: key_of(None, cuts_left()),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_whatever_changes_the_logits_changes_the_key(other: Callable[[], str]) -> None:
    assert other() != key_of() == key_of()


def test_the_tokenizers_last_call_is_not_part_of_the_key() -> None:
    """Fast tokenizers remember how they were last called: the second run would find nothing."""
    tokenizer = tiny_tokenizer()
    before = key_of(None, tokenizer)
    tokenizer(TEXTS, truncation=True, max_length=5, padding="max_length")
    assert '"max_length":5' in tokenizer.backend_tokenizer.to_str().replace(" ", "")
    assert key_of(None, tokenizer) == before


def test_tokenizers_without_a_fast_backend_have_a_key_too() -> None:
    from transformers import ByT5Tokenizer

    assert not hasattr(ByT5Tokenizer(), "backend_tokenizer")
    assert key_of(None, ByT5Tokenizer()) == key_of(None, ByT5Tokenizer())
    assert key_of(None, ByT5Tokenizer()) != key_of(None, ByT5Tokenizer(extra_ids=3))
    assert key_of(None, ByT5Tokenizer()) != key_of()


def test_a_name_and_a_time_are_not_part_of_the_key() -> None:
    about = described()
    assert teacher_key(about | {"name": "other", "created": "today"}) == teacher_key(about)
    assert len(teacher_key(about)) == 64


# The cache ------------------------------------------------------------------------------------------------


class Live:
    """A teacher that counts: text i has the logits `[i, -i]`, in chunks of three that come last row first."""

    def __init__(self, texts: Sequence[str], shift: float = 0) -> None:
        self.texts, self.shift = texts, shift
        self.asked: list[str] = []

    def __call__(self, positions: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
        self.asked += [self.texts[position] for position in positions]
        for start in range(0, len(positions), 3):
            chunk = np.array(positions[start : start + 3][::-1])
            yield chunk, self.truth([self.texts[position] for position in chunk]) + self.shift

    @staticmethod
    def truth(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text), -float(text)] for text in texts])


def numbered(*numbers: int) -> list[str]:
    return [str(number) for number in numbers]


def open_store(root: Path) -> LogitStore:
    about = described()
    return LogitStore(root, teacher_key(about), about)


def never() -> None:
    raise AssertionError("nobody else computes")


def gather(root: Path, live: Live, **options: Any) -> TeacherLogits:
    """What a run does, in a store of its own as in a process of its own."""
    settings = {"precision": "fp32", "waiting": never} | options
    gathered = gather_teacher_logits(Texts(live.texts).keys(), live, open_store(root), **settings)
    assert gathered.logits.dtype == torch.float32
    assert torch.equal(gathered.logits, live.truth(live.texts))
    return gathered


def test_a_teacher_runs_once_over_distinct_rows_and_never_again(tmp_path: Path) -> None:
    first, second = Live(numbered(5, 1, 5, 3, 2, 1, 4)), Live(numbered(4, 4, 1, 5))
    gathered = gather(tmp_path, first)
    assert (gathered.cached, gathered.computed, gathered.checked) == (0, 5, 0)
    assert (gathered.refused, gathered.damaged) == (None, 0)
    assert first.asked == numbered(5, 1, 3, 2, 4)
    again = gather(tmp_path, second, check=0)
    assert (again.cached, again.computed, second.asked) == (3, 0, [])


def test_rows_that_are_new_are_computed_alone(tmp_path: Path) -> None:
    """Unlabelled and augmented rows must not cost the teacher the whole training split once more."""
    gather(tmp_path, Live(numbered(*range(20))))
    live = Live(numbered(*range(10, 25)))
    gathered = gather(tmp_path, live, check=0)
    assert (gathered.cached, gathered.computed) == (10, 5)
    assert sorted(live.asked, key=int) == numbered(*range(20, 25))
    assert entries(tmp_path)[0].rows == 25


def test_up_to_eight_distinct_random_rows_are_checked(tmp_path: Path) -> None:
    texts = numbered(*range(50), *range(50))
    gather(tmp_path, Live(texts))
    drawn = []
    for seed in (0, 0, 1):
        live = Live(texts)
        assert gather(tmp_path, live, seed=seed).checked == len(set(live.asked)) == 8
        drawn.append(live.asked)
    assert drawn[0] == drawn[1] != drawn[2]
    live = Live(numbered(3, 3, 4))
    assert gather(tmp_path, live).checked == len(live.asked) == 2


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_stored_logits_that_the_teacher_does_not_give_are_refused(precision: Any, tmp_path: Path) -> None:
    """What the key does not see, a library that computes otherwise, would go into every later student."""
    texts = numbered(*range(1, 40))
    absolute, _ = TOLERANCES[precision]
    gather(tmp_path, Live(texts))
    close = Live(texts, shift=absolute / 2)
    gather_teacher_logits(
        Texts(texts).keys(), close, open_store(tmp_path), precision=precision, waiting=never
    )
    wrong = Live(texts, shift=2.5)
    store = open_store(tmp_path)
    with pytest.raises(UserError) as refused:
        gather_teacher_logits(Texts(texts).keys(), wrong, store, precision=precision, waiting=never)
    for text in ("teacher teacher", "2.5", f"distilkit cache prune --key {store.key[:12]}"):
        assert text in str(refused.value)
    wrong = Live([*texts, "999"], shift=2.5)
    with pytest.raises(UserError, match="prune"):
        gather(tmp_path, wrong, precision=precision)
    assert "999" not in wrong.asked, "it is found before anything else is computed"


def round_to_tf32(values: Tensor) -> Tensor:
    """Keep 10 of the 23 bits after the point, as the products of an LSTM do on a GPU."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_the_rounding_of_tf32_is_no_other_teacher(tmp_path: Path) -> None:
    """A BiLSTM whose logits are summed in another order on a GPU would be refused as another teacher."""
    torch.manual_seed(0)
    size, rows = 300, 200
    values, weights = torch.randn(rows, size), torch.randn(size, 2) / 2
    exact, rounded = values @ weights, round_to_tf32(values) @ round_to_tf32(weights)
    texts = numbered(*range(rows))

    def answer(logits: Tensor) -> Any:
        return lambda positions: iter([(np.array(positions), logits[torch.tensor(positions)])])

    def compare(live: Tensor, precision: Any) -> None:
        keys, store = Texts(texts).keys(), open_store(tmp_path)
        gather_teacher_logits(keys, answer(live), store, check=rows, precision=precision, waiting=never)

    compare(exact, "fp32")
    compare(rounded, "tf32")
    with pytest.raises(UserError, match="does not give the logits"):
        compare(rounded, "fp32")
    other_weights = weights + 0.02 * torch.randn(size, 2)
    with pytest.raises(UserError, match="does not give the logits"):
        compare(values @ other_weights, "tf32")


def test_logits_in_tf32_have_a_key_of_their_own() -> None:
    """Those of a CPU are more exact: it would compare them with a GPU's and refuse them."""
    assert key_of(precision="tf32") != key_of(precision="fp32")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_teacher_whose_answers_are_not_finite_is_refused_by_name(wrong: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"teacher teacher .* not finite.* fp32"):
        gather(tmp_path, Live(numbered(1, 2), shift=wrong))
    assert not entries(tmp_path)
    gather(tmp_path, Live(numbered(1, 2)))
    with pytest.raises(UserError, match="not finite"):
        gather(tmp_path, Live(numbered(1, 2), shift=wrong))


def test_rows_that_the_teacher_leaves_out_are_an_error(tmp_path: Path) -> None:
    """Their logits would be NaN."""

    def forgetful(positions: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
        yield np.array(positions[1:]), torch.zeros(len(positions) - 1, 2)

    with pytest.raises(ValueError, match="left out 1 of 3"):
        gather_teacher_logits(
            Texts(numbered(1, 2, 3)).keys(),
            forgetful,
            open_store(tmp_path),
            precision="fp32",
            waiting=never,
        )


def test_a_run_that_is_stopped_keeps_its_chunks(tmp_path: Path) -> None:
    class Stopped(Live):
        def __call__(self, positions: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
            chunks = super().__call__(positions)
            yield next(chunks)
            yield next(chunks)
            raise KeyboardInterrupt

    texts = numbered(*range(10))
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path, Stopped(texts))
    gathered = gather(tmp_path, Live(texts))
    assert (gathered.cached, gathered.computed) == (6, 4)


def test_damage_is_told_and_computed_anew(tmp_path: Path) -> None:
    texts = numbered(*range(6))
    gather(tmp_path, Live(texts))
    bad = min(tmp_path.rglob("*.safetensors"))
    bad.write_bytes(bad.read_bytes()[:-1])
    gathered = gather(tmp_path, Live(texts))
    assert (gathered.cached, gathered.computed, gathered.damaged) == (3, 3, 1)
    gathered = gather(tmp_path, Live(texts))
    assert (gathered.cached, gathered.computed, gathered.damaged) == (6, 0, 0)


def test_a_disk_that_refuses_is_told_and_the_logits_are_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    gathered = gather(tmp_path / "file", Live(numbered(1, 2, 1)))
    assert gathered.refused
    assert (gathered.cached, gathered.computed) == (0, 2)


def test_the_real_teachers_logits_come_back_in_the_rows_order(teacher: Any, tmp_path: Path) -> None:
    texts = [TEXTS[row] for row in (5, 0, 0, 7, 3, 5, 1)]

    def compute(positions: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
        yield np.array(positions), own_logits(teacher, [texts[position] for position in positions])

    for _ in range(2):
        gathered = gather_teacher_logits(
            Texts(texts).keys(), compute, open_store(tmp_path), precision="fp32", waiting=never
        )
        torch.testing.assert_close(gathered.logits, own_logits(teacher, texts), atol=1e-5, rtol=1e-4)


# Each process writes what it computes to a file of its own. Who gets the lock is slow until the other waits.
PROCESS = """
import os, sys, time
from pathlib import Path
sys.path[:0] = os.environ["TESTS"].split(os.pathsep)
from test_gathering import Live, gather, numbered

root, name = Path(sys.argv[1]), sys.argv[2]

class Slow(Live):
    def __call__(self, positions):
        for chunk, logits in super().__call__(positions):
            yield chunk, logits
            (root / f"{name}-asked").write_text(" ".join(self.asked))
            {pause}

gathered = gather(root, Slow(numbered(*range(12))), check=0, waiting=(root / f"{name}-waits").touch)
print(gathered.cached, gathered.computed)
"""


def start(root: Path, name: str, pause: str) -> WarmProcess:
    environment = os.environ | {"TESTS": f"{Path(__file__).parent}{os.pathsep}{ROOT / 'tests'}"}
    script = PROCESS.replace("{pause}", pause)
    return WarmProcess(["-c", script, root, name], env=environment, stdout=PIPE)


def wait_for(root: Path, pattern: str) -> None:
    for _ in range(1200):
        if list(root.glob(pattern)):
            return
        time.sleep(0.05)
    raise AssertionError(f"no {pattern}")


def test_of_two_processes_one_computes_and_the_other_waits_and_shares(tmp_path: Path) -> None:
    """A sweep's runs start together: the teacher would run as often as there are students."""
    pause = "[time.sleep(0.01) for _ in range(2000) if not list(root.glob('*-waits'))]"
    processes = [start(tmp_path, name, pause) for name in ("one", "two")]
    answers = sorted(process.communicate(timeout=120)[0].split() for process in processes)
    assert answers == [["0", "12"], ["12", "0"]]
    assert [file.read_text() for file in tmp_path.glob("*-asked")] == [" ".join(numbered(*range(12)))]
    assert len(list(tmp_path.glob("*-waits"))) == 1


def test_after_kill_9_the_next_process_computes_the_rest(tmp_path: Path) -> None:
    pause = "if len(list(root.rglob('*.safetensors'))) == 2: (root / 'two').touch(); time.sleep(100)"
    with start(tmp_path, "killed", pause) as process:
        wait_for(tmp_path, "two")
        process.send_signal(signal.SIGKILL)
    gathered = gather(tmp_path, Live(numbered(*range(12))))
    assert (gathered.cached, gathered.computed) == (6, 6)


def test_a_teacher_that_disagrees_with_itself_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    """Removing what is stored would help nothing: the next run would be refused in the same words."""
    texts = numbered(*range(1, 9))
    gather(tmp_path, Live(texts))

    class Moody(Live):
        def __call__(self, positions: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
            for chunk, logits in super().__call__(positions):
                yield chunk, logits + len(positions)

    with pytest.raises(UserError, match=r"in another batch \(by up to 7\).*fp32") as refused:
        gather(tmp_path, Moody(texts))
    assert "prune" not in str(refused.value)
