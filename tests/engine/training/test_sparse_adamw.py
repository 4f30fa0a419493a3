"""`SparseRowAdamW` is `torch.optim.AdamW`, of which it only puts off what no step of training can see."""

import copy
import itertools
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distilkit.engine.training.sparse_adamw import WINDOW, SparseRowAdamW, can_be_table

ROWS, WIDTH = 40, 5
NEVER = ROWS - 1  # a row that no step reads
RARE = ROWS - 2  # one that is read at the start and then not for long
TIGHT = {torch.float64: 1e-12, torch.float32: 1e-4}
Step = Sequence[Tensor]  # token ids of the batches of one optimizer step


@dataclass(frozen=True)
class Setting:
    """How a training goes."""

    dtype: torch.dtype = torch.float64
    weight_decay: float = 0.05
    max_norm: float | None = None
    padding: int | None = None
    learning_rate: float = 2e-2
    eps: float = 1e-30


class Net(nn.Module):
    """Words to their mean and on to two numbers, with a bias of its own."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(ROWS, WIDTH, padding_idx=setting.padding)
        self.out = nn.Linear(WIDTH, 2)
        self.to(setting.dtype)

    def forward(self, ids: Tensor) -> Tensor:
        # Not linear, so that gradients depend on what the rows are.
        logits: Tensor = self.out(torch.tanh(self.words(ids)).mean(dim=1))
        return logits


def random_steps(number: int, batches: int = 1, seed: int = 0) -> list[Step]:
    """Steps that read few of the rows, `RARE` in the first ten alone, `NEVER` in none."""
    random = torch.Generator().manual_seed(seed)
    steps = []
    for step in range(number):
        ids = [torch.randint(0, RARE, (2, 3), generator=random) for _ in range(batches)]
        if step < 10:
            ids[0][0, 0] = RARE
        steps.append(ids)
    return steps


def rate(step: int, steps: int) -> float:
    """Warm-up over a tenth of the steps from nothing, and then down to nothing."""
    return min(step / (0.1 * steps), (steps - step) / (0.9 * steps))


def decay_groups(net: Net, setting: Setting) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in net.parameters() if p.ndim == 2], "weight_decay": setting.weight_decay},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]


def target(step: int) -> float:
    """What the net is to answer changes, so that gradients turn round."""
    return float(step % 7) - 3


def backward(net: Net, batch: Tensor, step: int) -> None:
    (net(batch) - target(step)).square().mean().backward()


def step_of_rows(net: Net, optimizer: SparseRowAdamW, batch: Tensor, number: int) -> None:
    """A whole step of one batch."""
    optimizer.activate(batch)
    backward(net, batch, number)
    optimizer.step()
    optimizer.zero_grad()


def train_dense(setting: Setting, steps: Sequence[Step]) -> tuple[Net, torch.optim.AdamW]:
    net = Net(setting)
    optimizer = torch.optim.AdamW(
        decay_groups(net, setting), lr=setting.learning_rate, betas=(0.9, 0.999), eps=setting.eps
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(steps)))
    for number, batches in enumerate(steps):
        for batch in batches:
            backward(net, batch, number)
        if setting.max_norm:
            torch.nn.utils.clip_grad_norm_(net.parameters(), setting.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return net, optimizer


def train_rows(setting: Setting, steps: Sequence[Step]) -> Iterator[tuple[int, Net, SparseRowAdamW]]:
    """The net and its optimizer after each step, nothing settled."""
    net = Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=setting.learning_rate)
    for group in optimizer.param_groups:
        group["eps"] = setting.eps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(steps)))
    for number, batches in enumerate(steps):
        optimizer.activate(*batches)
        for batch in batches:
            backward(net, batch, number)
        if setting.max_norm:
            torch.nn.utils.clip_grad_norm_(optimizer.trained_parameters(), setting.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield number, net, optimizer


def settled(setting: Setting, steps: Sequence[Step]) -> tuple[Net, SparseRowAdamW]:
    _, net, optimizer = list(train_rows(setting, steps))[-1]
    optimizer.flush()
    return net, optimizer


def check_equal(setting: Setting, steps: Sequence[Step]) -> None:
    """Parameters and moments are dense AdamW's, to what numbers of this format can say."""
    (dense, dense_optimizer), (sparse, optimizer) = train_dense(setting, steps), settled(setting, steps)
    tight = TIGHT[setting.dtype]
    start = dict(Net(setting).named_parameters())
    for (name, expected), value in zip(dense.named_parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(value, expected, atol=tight, rtol=tight, msg=lambda m, n=name: f"{n}: {m}")
        assert not torch.allclose(expected, start[name], atol=1e-3), "nothing was trained"
    for expected, value in zip(dense.parameters(), sparse.parameters(), strict=True):
        wanted, given = dense_optimizer.state[expected], optimizer.state[value]
        assert float(given["step"]) == float(wanted["step"]) == len(steps)
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(given[moment], wanted[moment], atol=tight * 1e-2, rtol=tight)


SETTINGS = {
    "plain": Setting(weight_decay=0.0),
    "weight decay": Setting(weight_decay=0.3),
    "clipped": Setting(max_norm=0.1),
    "padding": Setting(padding=0),
    "all": Setting(weight_decay=0.3, max_norm=0.1, padding=3),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("batches", [1, 2], ids=["one batch a step", "two batches a step"])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_parameters_and_moments_are_those_of_dense_adamw(
    setting: Setting, batches: int, dtype: torch.dtype
) -> None:
    """Momentum or decay that a row misses while it is not read would train another student, a bit worse."""
    check_equal(Setting(**(vars(setting) | {"dtype": dtype})), random_steps(400, batches))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_row_unread_for_more_than_a_thousand_steps_is_made_up_for_in_one_go(dtype: torch.dtype) -> None:
    """Longer than the window of what is added up, and than the buffers that hold it: both must go on."""
    steps = random_steps(1400, seed=3)
    steps[-2] = [torch.tensor([[RARE, 1, 2]])]  # read once more: its gradient depends on where it is
    assert len(steps) - 12 > 2 * WINDOW and len(steps) > 1024
    check_equal(Setting(dtype=dtype, weight_decay=0.02), steps)


def test_with_the_real_eps_parameters_are_dense_adamws_nearly() -> None:
    """`eps` is let fade with the moments: that must stay far below what a step moves a parameter by."""
    setting, steps = Setting(eps=1e-8), random_steps(600)
    (dense, _), (sparse, _) = train_dense(setting, steps), settled(setting, steps)
    difference = (dense.words.weight - sparse.words.weight).abs().max()
    assert difference < 1e-4 * setting.learning_rate


def test_the_real_eps_holds_back_rows_whose_gradients_are_tiny_as_dense_adamw_does() -> None:
    """Left out of the making up, rows with gradients near eps would fly off by whole learning rates."""
    table = nn.Embedding(4, 3).double()
    start = table.weight[1].detach().clone()
    twin = nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)
    optimizer = SparseRowAdamW([{"params": [table.weight], "weight_decay": 0.0}], [table], lr=1e-2)
    dense = torch.optim.AdamW([twin.weight], lr=1e-2, weight_decay=0.0)
    for step in range(50):
        ids = torch.tensor([1 if step < 2 else 2])
        for module, one in ((table, optimizer), (twin, dense)):
            if module is table:
                optimizer.activate(ids)
            (module(ids).sum() * 1e-9).backward()
            one.step()
            one.zero_grad()
    optimizer.flush()
    wanted, given = ((start - module.weight[1]).abs().detach() for module in (twin, table))
    assert wanted.max() < 0.6e-2, "half of one step; without eps it would be eight"
    assert (given < 1.5 * wanted).all() and (given > wanted / 1.5).all()


def test_a_step_reads_the_rows_that_dense_adamw_would_read() -> None:
    """What a forward pass sees must be up to date: settled at the end alone, gradients would be stale."""
    setting, steps = Setting(), random_steps(120)
    for number, net, optimizer in train_rows(setting, steps):
        if number % 40 == 39:
            dense, _ = train_dense_until(setting, steps, number + 1)
            ids = torch.arange(0, ROWS, 3)
            optimizer.activate(ids)
            torch.testing.assert_close(net.words(ids), dense.words(ids), atol=1e-12, rtol=1e-12)


def train_dense_until(setting: Setting, steps: Sequence[Step], stop: int) -> tuple[Net, torch.optim.AdamW]:
    """`train_dense` on the first `stop` steps, with the schedule of all."""
    net = Net(setting)
    optimizer = torch.optim.AdamW(decay_groups(net, setting), lr=setting.learning_rate, eps=setting.eps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(steps)))
    for number, batches in enumerate(steps[:stop]):
        for batch in batches:
            backward(net, batch, number)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return net, optimizer


def test_settling_in_the_middle_changes_nothing_about_the_end() -> None:
    """Validation settles after every epoch: made up for twice, rows would move on by themselves."""
    setting, steps = Setting(), random_steps(200)
    once, _ = settled(setting, steps)
    for number, net, optimizer in train_rows(setting, steps):
        if number % 17 == 0:
            optimizer.flush()
            before = net.words.weight.detach().clone()
            optimizer.flush()
            optimizer.activate(torch.arange(ROWS))
            torch.testing.assert_close(net.words.weight.detach(), before, atol=1e-15, rtol=1e-15)
    optimizer.flush()
    torch.testing.assert_close(net.words.weight, once.words.weight, atol=1e-12, rtol=1e-12)


def test_a_row_never_read_only_shrinks_and_one_of_padding_stays_as_it_was() -> None:
    """Their moments are zero: 0 / 0 there would be NaN in a table that training never looks at."""
    setting, steps = Setting(weight_decay=0.3, padding=0, dtype=torch.float32), random_steps(100)
    net, optimizer = settled(setting, steps)
    start = Net(setting).words.weight.detach()
    shrink = 1.0
    for step in range(100):
        shrink *= 1 - setting.learning_rate * rate(step, 100) * 0.3
    torch.testing.assert_close(net.words.weight[NEVER], start[NEVER] * shrink, atol=1e-6, rtol=1e-5)
    assert shrink < 0.9
    assert torch.equal(net.words.weight[0], torch.zeros(WIDTH))
    state = optimizer.state[net.words.weight]
    assert state["exp_avg"][[0, NEVER]].abs().sum() == 0


def test_a_step_without_any_gradient_of_the_table_is_a_step_that_all_its_rows_miss() -> None:
    """A batch of padding alone: dense AdamW moves on by momentum, its gradient being zero and not None."""
    setting = Setting(padding=0)
    steps = random_steps(30)
    for number in (10, 11, 20):
        steps[number] = [torch.zeros(2, 3, dtype=torch.int64)]
    check_equal(setting, steps)


def test_all_tables_are_kept_up_to_date() -> None:
    """A second table left out would be trained without momentum."""

    def make() -> nn.ModuleList:
        torch.manual_seed(1)
        return nn.ModuleList([nn.Embedding(9, 2), nn.Embedding(9, 3)]).double()

    ours, theirs = make(), make()
    tables: list[Any] = list(ours)
    optimizer = SparseRowAdamW([{"params": list(ours.parameters()), "weight_decay": 0.1}], tables, lr=1e-2)
    optimizer.param_groups[0]["eps"] = 1e-30
    dense = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1, eps=1e-30)
    random = torch.Generator().manual_seed(0)
    for _ in range(100):
        ids = torch.randint(9, (2,), generator=random)
        optimizer.activate(ids)
        for two, one in ((ours, optimizer), (theirs, dense)):
            sum((table(ids) - 1).pow(4).sum() for table in two).backward()  # type: ignore[union-attr]
            one.step()
            one.zero_grad()
    optimizer.flush()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-12)


def test_without_tables_it_is_adamw_to_the_bit() -> None:
    """A GPU, and a student whose table is small, take this way."""
    setting, steps = Setting(dtype=torch.float32, eps=1e-8), random_steps(50)
    dense, _ = train_dense(setting, steps)
    net = Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [], lr=setting.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, len(steps)))
    for number, (batch,) in enumerate(steps):
        step_of_rows(net, optimizer, batch, number)
        schedule.step()
    assert not net.words.weight.is_sparse and net.words.sparse is False
    for mine, other in zip(net.parameters(), dense.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("fused", [False, True])
def test_the_rest_of_the_model_is_adamws_to_the_bit_whether_fused_or_not(fused: bool) -> None:
    """Only the table may be put off: the other parameters see every gradient at once."""
    setting, (batch,) = Setting(dtype=torch.float32, eps=1e-8), random_steps(1)[0]
    net, twin = Net(setting), Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2, fused=fused)
    dense = torch.optim.AdamW(decay_groups(twin, setting), lr=1e-2, fused=fused)
    optimizer.activate(batch)
    for one, module in ((optimizer, net), (dense, twin)):
        backward(module, batch, 0)
        one.step()
    for mine, other in zip(net.out.parameters(), twin.out.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("fused", [False, True])
def test_its_state_can_be_saved_and_goes_on_as_if_nothing_had_been(fused: bool) -> None:
    """Accelerate loads the state into the optimizer when it prepares it, which replaces its groups."""
    setting, steps = Setting(dtype=torch.float32, eps=1e-8), random_steps(20)
    results = []
    for reload in (False, True):
        net = Net(setting)
        optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2, fused=fused)
        if reload:
            optimizer.load_state_dict(optimizer.state_dict())
        optimizer.param_groups[0]["lr"] = 5e-3
        for number, (batch,) in enumerate(steps):
            step_of_rows(net, optimizer, batch, number)
        optimizer.flush()
        results.append(net.words.weight.detach())
    assert torch.equal(*results)


# --- what a step touches -----------------------------------------------------------------------------------


@contextmanager
def touched(*tensors: Tensor) -> Iterator[list[set[int]]]:
    """The rows of each tensor whose numbers differ after the block from those before it."""
    before = [tensor.detach().clone() for tensor in tensors]
    rows: list[set[int]] = []
    yield rows
    for tensor, old in zip(tensors, before, strict=True):
        rows.append(set((tensor.detach() != old).any(dim=1).nonzero()[:, 0].tolist()))


def test_a_step_touches_only_the_rows_that_it_read() -> None:
    """All rows touched in every step is what the class is there to avoid: right, but slow as before."""
    setting = Setting()
    _, net, optimizer = next(islice(train_rows(setting, random_steps(60)), 20, None))
    state = optimizer.state[net.words.weight]
    ids = torch.tensor([[3, 7, 7], [11, 3, 20]])
    wanted = {3, 7, 11, 20}
    with touched(net.words.weight) as by_reading:
        optimizer.activate(ids)
    assert by_reading[0] <= wanted
    with touched(net.words.weight, state["exp_avg"], state["exp_avg_sq"]) as by_step:
        backward(net, ids, 21)
        optimizer.step()
    assert by_step == [wanted] * 3


def test_a_step_never_makes_a_tensor_of_the_tables_size() -> None:
    """A dense gradient or a mask of all rows, made and thrown away, costs as much as the dense step."""
    from torch.utils._python_dispatch import TorchDispatchMode

    rows = 50_000
    table, out = nn.Embedding(rows, 4), nn.Linear(4, 1)
    parameters = [table.weight, out.weight, out.bias]
    optimizer = SparseRowAdamW([{"params": parameters, "weight_decay": 0.01}], [table], lr=1e-2, fused=True)
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for one in result if isinstance(result, tuple | list) else [result]:
                changed = any(one is given for given in args)
                if isinstance(one, Tensor) and not changed and one.untyped_storage().data_ptr() not in kept:
                    sizes.append(one.numel())
            return result

    def step() -> None:
        ids = torch.tensor([[1, 2, 3], [4, 5, 49_999]])
        optimizer.activate(ids)
        out(table(ids)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(optimizer.trained_parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()  # makes the moments
    state = optimizer.state[table.weight]
    kept = {one.untyped_storage().data_ptr() for one in (table.weight, state["exp_avg"])}
    with Sizes():
        step()
    assert sizes and max(sizes) < rows


# --- clipping ----------------------------------------------------------------------------------------------


def test_the_gradients_of_a_table_are_clipped_with_the_others_repeats_added_up() -> None:
    """A row read twice has the sum of both as its gradient: their norms apart are another norm."""
    setting = Setting()
    net, twin = Net(setting), Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2)
    batches = torch.tensor([[5, 5, 6]]), torch.tensor([[5, 1, 6]])
    optimizer.activate(*batches)
    for batch in batches:
        backward(net, batch, 0)
        backward(twin, batch, 0)
    norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.2)
    assert norm > 0.2
    torch.nn.utils.clip_grad_norm_(optimizer.trained_parameters(), 0.2)
    *dense, rows = [p.grad for p in optimizer.trained_parameters() if p.grad is not None]
    words, *others = twin.parameters()
    assert words.grad is not None
    torch.testing.assert_close(rows, words.grad[[1, 5, 6]], atol=1e-12, rtol=1e-6)
    for mine, other in zip(sorted(dense, key=len), sorted(others, key=len), strict=True):
        torch.testing.assert_close(mine, other.grad, atol=1e-12, rtol=1e-6)


def test_reading_again_before_the_step_is_refused() -> None:
    """The gradient of the rows read first would be lost, and nothing would say so."""
    setting = Setting()
    net = Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2)
    batch = torch.tensor([[5, 5, 6]])
    optimizer.activate(torch.tensor([[1, 2]]))
    optimizer.activate(batch)
    backward(net, batch, 0)
    with pytest.raises(RuntimeError, match="all its batches"):
        optimizer.activate(batch)
    optimizer.step()
    optimizer.activate(batch)


def test_a_word_that_the_step_did_not_read_cannot_be_looked_up() -> None:
    """It would be out of date: an error, and no wrong vector."""
    setting = Setting()
    net = Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2)
    optimizer.activate(torch.tensor([[1, 2]]))
    with pytest.raises(IndexError):
        net(torch.tensor([[1, 3]]))
    optimizer.flush()
    assert net(torch.tensor([[1, 3]])).isfinite().all()


def test_a_settled_module_is_as_it_was_and_can_be_copied() -> None:
    """A copy that looked words up in the original's rows would answer for another model."""
    setting = Setting()
    net = Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2)
    optimizer.activate(torch.tensor([[1, 2]]))
    assert "forward" in vars(net.words)
    optimizer.flush()
    assert "forward" not in vars(net.words)


@pytest.mark.parametrize(
    ("module", "plain"),
    [
        (nn.Embedding(4, 2), True),
        (nn.Embedding(4, 2, padding_idx=0), True),
        (nn.Embedding(4, 2, max_norm=1.0), False),
        (nn.Embedding(4, 2, scale_grad_by_freq=True), False),
        (nn.Embedding(4, 2).requires_grad_(False), False),
        (nn.EmbeddingBag(4, 2), False),
        (nn.Linear(4, 2), False),
    ],
)
def test_only_plain_embeddings_in_training_are_tables(module: nn.Module, plain: bool) -> None:
    assert can_be_table(module) is plain


def test_a_second_core_changes_no_bit() -> None:
    setting = Setting(dtype=torch.float32)
    nets = [Net(setting), Net(setting)]
    with ThreadPoolExecutor(1) as spare_core:
        for net, executor in zip(nets, (None, spare_core), strict=True):
            optimizer = SparseRowAdamW(
                decay_groups(net, setting), [net.words], lr=1e-2, fused=True, spare_core=executor
            )
            for number, batches in enumerate(random_steps(20)):
                optimizer.activate(*batches)
                backward(net, batches[0], number)
                optimizer.step()
                optimizer.zero_grad()
            optimizer.flush()
    assert not torch.equal(nets[0].out.weight, Net(setting).out.weight)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stop", [1, 7, 25])
@pytest.mark.parametrize("learning_rate", [1e-2, 12.0])
def test_an_optimizer_goes_on_from_its_exact_state_to_the_bit(stop: int, learning_rate: float) -> None:
    """A row that is brought up to date in two goes differs in its last bits, and so does all that follows.

    At the higher rate, weight decay now and then takes all rows through a step.
    """
    setting = Setting(dtype=torch.float32)
    whole, stopped = Net(setting), Net(setting)
    steps = random_steps(30)

    def make(net: Net) -> SparseRowAdamW:
        return SparseRowAdamW(decay_groups(net, setting), [net.words], lr=learning_rate, fused=True)

    def take(net: Net, optimizer: SparseRowAdamW, first: int, last: int) -> None:
        for number in range(first, last):
            optimizer.activate(*steps[number])
            backward(net, steps[number][0], number)
            optimizer.step()
            optimizer.zero_grad()

    optimizer = make(whole)
    take(whole, optimizer, 0, 30)
    first = make(stopped)
    take(stopped, first, 0, stop)
    state = {name: value.clone() for name, value in first.exact_state().items()}
    resumed = Net(setting)
    resumed.load_state_dict(stopped.state_dict())
    second = make(resumed)
    take(resumed, second, 0, 0)
    second.load_exact_state(state)
    take(resumed, second, stop, 30)
    if learning_rate < 1:
        behind = dict(zip(*torch.unique(state["table0.last_steps"], return_counts=True), strict=True))
        assert len(behind) > 1, "some rows are behind"
    for one in (optimizer, second):
        one.flush()
    assert not torch.equal(whole.words.weight, Net(setting).words.weight)
    for expected, parameter in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, parameter)


@pytest.mark.parametrize("learning_rate", [4.0, 10.0, 21.0, 30.0])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_weight_decay_that_leaves_nothing_of_a_weight_is_dense_adamws_too(
    learning_rate: float, gradients: bool
) -> None:
    """lr x weight decay of 0.2, 0.5, 1.05 and 1.5: what rows miss cannot be divided out any more."""
    setting = Setting(weight_decay=0.05, learning_rate=learning_rate)
    net, twin = Net(setting), Net(setting)
    rows = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=learning_rate)
    dense = torch.optim.AdamW(
        decay_groups(twin, setting), lr=learning_rate, betas=(0.9, 0.999), eps=setting.eps
    )
    for optimizer in (rows, dense):
        for group in optimizer.param_groups:
            group["eps"] = setting.eps
    for number, (batch,) in enumerate(random_steps(40)):
        if gradients or number % 3:
            rows.activate(batch)
            backward(net, batch, number)
            backward(twin, batch, number)
        else:  # AdamW would leave out a parameter without a gradient
            for parameter in twin.parameters():
                parameter.grad = torch.zeros_like(parameter)
            for parameter in (net.out.weight, net.out.bias):
                parameter.grad = torch.zeros_like(parameter)
        for optimizer in (rows, dense):
            optimizer.step()
            optimizer.zero_grad()
    rows.flush()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-7)


def test_a_weight_decay_of_all_there_is_does_not_divide_by_nothing() -> None:
    """lr x weight decay of exactly 1, with and without a gradient."""
    setting = Setting(weight_decay=0.05)
    net = Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=20.0)
    for number, (batch,) in enumerate(random_steps(6)):
        if number % 2:
            optimizer.activate(batch)
            backward(net, batch, number)
        optimizer.step()
        optimizer.zero_grad()
    optimizer.flush()
    assert net.words.weight.isfinite().all()


def test_a_table_long_shrunk_starts_anew_before_its_numbers_run_out() -> None:
    """After 3,000 steps at 0.2 nothing is left of what the decay multiplies up to: 1e-290."""
    setting = Setting(weight_decay=0.05, learning_rate=4.0)
    net = Net(setting)
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=4.0)
    for number, (batch,) in enumerate(random_steps(3300)):
        step_of_rows(net, optimizer, batch, number)
    optimizer.flush()
    assert net.words.weight.isfinite().all()


def test_state_loaded_in_the_middle_is_the_state_that_goes_on() -> None:
    """Rows that were read before it was loaded must not overwrite it."""
    setting = Setting()
    steps = random_steps(30)
    ((number, net, optimizer),) = list(train_rows(setting, steps[:15]))[-1:]
    optimizer.flush()
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    outcomes = []
    for _ in range(2):
        net.load_state_dict(weights)
        optimizer.load_state_dict(copy.deepcopy(state))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        for batches in steps[15:]:
            optimizer.activate(*batches)
            backward(net, batches[0], number)
            optimizer.step()
            optimizer.zero_grad()
        optimizer.flush()
        outcomes.append([parameter.detach().clone() for parameter in net.parameters()])
        optimizer.activate(*steps[0])  # and is left lying
    assert (outcomes[0][0] - weights["words.weight"]).abs().max() > 1e-2
    for one, other in zip(*outcomes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_gradients_that_are_set_to_zero_move_no_row() -> None:
    setting = Setting(weight_decay=0.0)
    net = Net(setting)
    before = net.words.weight.detach().clone()
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2)
    batch = torch.tensor([[1, 2]])
    optimizer.activate(batch)
    backward(net, batch, 0)
    optimizer.zero_grad()
    optimizer.step()
    optimizer.flush()
    assert torch.equal(net.words.weight, before)


def test_weights_that_another_module_reads_too_are_an_error() -> None:
    """Its gradient would be lost: the table's own rows are written over the update."""
    setting = Setting()
    net = Net(setting)
    other = nn.Embedding(ROWS, WIDTH)
    other.weight = net.words.weight
    optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2)
    optimizer.activate(torch.tensor([[1, 2]]))
    other(torch.tensor([[3]])).sum().backward()
    with pytest.raises(RuntimeError, match="another module"):
        optimizer.step()


def test_an_interrupt_while_rows_are_activated_or_written_back_leaves_a_whole_module() -> None:
    """Ctrl-C may come between any two lines; `flush` follows."""
    setting = Setting()
    steps = random_steps(6)
    lines = 0
    for stop in itertools.count():
        net = Net(setting)
        optimizer = SparseRowAdamW(decay_groups(net, setting), [net.words], lr=1e-2)
        seen = 0

        def interrupt(frame: Any, event: str, _: Any, stop: int = stop) -> Any:
            nonlocal seen
            if (
                frame.f_code.co_name in ("activate", "write_back")
                and "sparse_adamw" in frame.f_code.co_filename
            ):
                if event == "line":
                    seen += 1
                    if seen == stop + 1:
                        sys.settrace(None)
                        raise KeyboardInterrupt
                return interrupt
            return None

        sys.settrace(interrupt)
        try:
            for number, batches in enumerate(steps):
                optimizer.activate(*batches)
                backward(net, batches[0], number)
                optimizer.step()
                optimizer.zero_grad()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        optimizer.flush()
        assert "forward" not in vars(net.words)
        assert net(torch.tensor([[NEVER]])).isfinite().all()
        lines = max(lines, seen)
        if seen < stop + 1:
            break
    assert lines > 50
