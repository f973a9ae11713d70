"""The loop: it learns, repeats itself by seed, and survives what happens to long runs."""

import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from slimmable import convert
from slimmable.errors import CheckpointError, RecipeError, TrainingError
from slimmable.record import RunRecord
from slimmable.train import AdamW, Constant, Cosine, Fixed, Sandwich, Sgd, SwitchList, Timm, TrainSettings, fit
from tests.unit.train.toy import ToyTask, toy_net

SETTINGS = TrainSettings(epochs=4, lr=0.05, seed=7)


def state(net):
    return {name: tensor.detach().clone() for name, tensor in [*net.named_parameters(), *net.named_buffers()]}


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def without_times(history):
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]


def train(net, *, settings=SETTINGS, task=None, sampler=None, **options):
    if sampler is None:
        random = Sandwich(net.space, mode="nonuniform", seed=settings.seed)
        sampler = SwitchList(net.switches) if net.switches else random
    return fit(net, task or ToyTask(), sampler=sampler, settings=settings, progress=False, **options)


class Watcher:
    """Keeps what it is told, and raises ``error`` after step ``at``."""

    def __init__(self, *, at=None, error=KeyboardInterrupt):
        self.at, self.error = at, error
        self.steps, self.epochs, self.closed = [], [], False

    def epoch_started(self, epoch, *, steps):
        pass

    def step_done(self, step, *, losses, lr):
        self.steps.append((step, lr))
        if step == self.at:
            raise self.error

    def epoch_done(self, entry):
        self.epochs.append(entry["epoch"])

    def close(self):
        self.closed = True


@pytest.mark.parametrize("ratios", [(0.5, 1.0), (0.5,)], ids=str)
def test_batches_are_made_at_the_widest_of_the_widths_that_are_trained(ratios):
    net, met = toy_net(), []
    switches = [net.space.uniform(ratio) for ratio in ratios]

    class Noting(ToyTask):
        def train_batches(self, net, *, epoch, seed):
            made = super().train_batches(net, epoch=epoch, seed=seed)
            return Sized(len(made), (met.append(net.widths) or batch for batch in made))

    before = net.widths
    train(net, settings=TrainSettings(epochs=2), task=Noting(), sampler=SwitchList(switches))

    assert met == [switches[-1]] * 6
    assert net.widths == before


class Sized:
    def __init__(self, size, batches):
        self.size, self.batches = size, batches

    def __len__(self):
        return self.size

    def __iter__(self):
        return iter(self.batches)


def test_it_learns_at_every_followed_width():
    net = toy_net()
    record = train(net, settings=TrainSettings(epochs=12, lr=0.05), task=ToyTask(steps=4, size=18))
    first, last = record.history[0], record.history[-1]
    assert last["losses"][0] < 0.5 * first["losses"][0]
    figures = [line["figures"]["accuracy"] for line in last["validation"]]
    assert len(figures) == 2
    assert min(figures) > 0.9


def test_same_seed_same_weights_and_another_seed_others():
    nets = [toy_net() for _ in range(3)]
    records = [
        train(net, settings=TrainSettings(epochs=2, seed=seed)) for net, seed in zip(nets, (1, 1, 2), strict=True)
    ]
    assert same(state(nets[0]), state(nets[1]))
    assert without_times(records[0].history) == without_times(records[1].history)
    assert not same(state(nets[0]), state(nets[2]))


def test_global_generators_and_mode_are_left_alone():
    net = toy_net().eval()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train(net, settings=TrainSettings(epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not net.training
    assert net.widths == net.space.largest


VARIANTS = {
    "sgd": TrainSettings(epochs=4, lr=0.05, channels_last="never"),
    "channels_last": TrainSettings(epochs=4, lr=0.05, channels_last="always", schedule=Cosine()),
    "adamw, average, clipping": TrainSettings(epochs=4, lr=0.01, optimizer=AdamW(), ema_decay=0.9, clip_norm=0.5),
    "timm": TrainSettings(epochs=4, lr=0.01, optimizer=Timm(name="lamb"), warmup_epochs=1.5),
    "labels": TrainSettings(epochs=4, lr=0.05, distillation=False, optimizer=Sgd(nesterov=False)),
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("stop", [3, 7], ids=["early in epoch 2", "in epoch 3"])
def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(tmp_path, settings, stop):
    if isinstance(settings.optimizer, Timm):
        pytest.importorskip("timm")
    whole = toy_net()
    expected = train(whole, settings=settings)

    with pytest.raises(KeyboardInterrupt):
        train(toy_net(), settings=settings, folder=tmp_path, observers=[Watcher(at=stop)])
    interrupted = RunRecord.load(tmp_path / "record.json")
    assert interrupted.status == "interrupted"
    assert len(interrupted.history) == stop // 3
    resumed = toy_net(seed=123)  # other weights: all that counts is in the folder
    record = train(resumed, settings=settings, folder=tmp_path, resume=True)

    assert same(state(resumed), state(whole))
    assert without_times(record.history) == without_times(expected.history)
    assert RunRecord.load(tmp_path / "record.json") == record
    assert record.status == "finished"
    assert record.created == interrupted.created


@pytest.mark.parametrize("switches", [None, (0.5, 1.0)], ids=["shared", "private"])
def test_a_killed_process_is_resumed_too(tmp_path, switches):
    script = """
        import os, signal
        from tests.unit.train.test_loop import Watcher, train
        from tests.unit.train.toy import toy_net

        class Killer(Watcher):
            def step_done(self, step, *, losses, lr):
                if step == 7:
                    os.kill(os.getpid(), signal.SIGKILL)

        train(toy_net(switches={switches}), folder={folder!r}, observers=[Killer()])
    """
    script = textwrap.dedent(script).format(switches=switches, folder=str(tmp_path))
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=root)
    assert found.returncode == -signal.SIGKILL, found.stderr

    whole, resumed = toy_net(switches=switches), toy_net(switches=switches)
    train(whole)
    train(resumed, folder=tmp_path, resume=True)
    assert same(state(resumed), state(whole))


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    net, again = toy_net(), toy_net(seed=1)
    settings = TrainSettings(epochs=2, ema_decay=0.5)
    record = train(net, settings=settings, folder=tmp_path)
    found = train(again, settings=settings, folder=tmp_path, resume=True)
    assert same(state(again), state(net))
    assert found.history == record.history


def test_resume_without_a_run_starts_one(tmp_path):
    record = train(toy_net(), settings=TrainSettings(epochs=1), folder=tmp_path / "new", resume=True)
    assert [entry["epoch"] for entry in record.history] == [1]


def test_a_run_is_never_overwritten_silently(tmp_path):
    train(toy_net(), settings=TrainSettings(epochs=1), folder=tmp_path)
    with pytest.raises(TrainingError, match="already holds a run; pass resume=True"):
        train(toy_net(), settings=TrainSettings(epochs=1), folder=tmp_path)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        (TrainSettings(epochs=3), r"settings.epochs = 2, this run has 3"),
        (TrainSettings(epochs=2, schedule=Constant()), r"settings.schedule.kind = 'linear', this run has 'constant'"),
        (TrainSettings(epochs=2, seed=1), r"seed"),
    ],
)
def test_other_settings_cannot_continue_a_run(tmp_path, settings, difference):
    train(toy_net(), settings=TrainSettings(epochs=2), folder=tmp_path)
    with pytest.raises(CheckpointError, match=difference):
        train(toy_net(), settings=settings, folder=tmp_path, resume=True)


def test_another_sampler_cannot_continue_a_run(tmp_path):
    net = toy_net()
    train(net, settings=TrainSettings(epochs=1), folder=tmp_path)
    with pytest.raises(CheckpointError, match="sampler='sandwich', this one sampler='fixed'"):
        train(net, settings=TrainSettings(epochs=1), folder=tmp_path, resume=True, sampler=Fixed(net.space.largest))


def test_a_loss_that_is_not_finite_names_step_widths_and_rate(tmp_path):
    class Poisoned(ToyTask):
        def train_batches(self, net, *, epoch, seed):
            batches = super().train_batches(net, epoch=epoch, seed=seed)
            if epoch == 1:
                batches[1][0][0, 0, 0, 0] = math.nan
            return batches

    net = toy_net()
    with pytest.raises(TrainingError, match=r"loss is nan at step 4, Widths\(.*learning rate 0\.0\d+"):
        train(net, task=Poisoned(), folder=tmp_path)
    record = RunRecord.load(tmp_path / "record.json")
    assert record.status == "failed"
    assert len(record.history) == 1
    assert (tmp_path / "last.safetensors").exists()


def test_weights_that_are_not_finite_are_never_checkpointed(tmp_path):
    class Bomb(Watcher):
        def step_done(self, step, *, losses, lr):
            if step == 2:
                dict(net.named_parameters())["model.head.bias"].data.fill_(math.inf)

    net = toy_net()
    with pytest.raises(TrainingError, match=r"head\.bias holds values that are not finite after epoch 0"):
        train(net, folder=tmp_path, observers=[Bomb()])
    assert not (tmp_path / "last.safetensors").exists()


@pytest.mark.parametrize("found", [2, 4])
def test_a_task_must_give_as_many_batches_as_it_says(found):
    class Miscounted(list):
        def __len__(self):
            return 3

    class Wrong(ToyTask):
        def train_batches(self, net, *, epoch, seed):
            return Miscounted(super().train_batches(net, epoch=epoch, seed=seed))

    with pytest.raises(TrainingError, match=f"announced 3 training batches for epoch 0 and gave {found}"):
        train(toy_net(), task=Wrong(steps=found))


def test_clipping_bounds_the_step():
    net = toy_net()
    before = state(net)
    settings = TrainSettings(
        epochs=1,
        lr=1.0,
        schedule=Constant(),
        clip_norm=1e-3,
        weight_decay=0.0,
        optimizer=Sgd(momentum=0, nesterov=False),
    )
    train(net, settings=settings, task=ToyTask(steps=1))
    moved = [(parameter - before[name]).norm() for name, parameter in net.named_parameters()]
    assert torch.stack(moved).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_switches_and_fixed_widths_are_the_ones_followed():
    net = toy_net(switches=(0.5, 0.75, 1.0))
    record = train(net, settings=TrainSettings(epochs=1), sampler=SwitchList(net.switches))
    assert [line["widths"] for line in record.history[0]["validation"]] == [
        net.space.uniform(ratio).to_json() for ratio in (1.0, 0.75, 0.5)
    ]
    assert len(record.history[0]["losses"]) == 3
    net = toy_net()
    record = train(net, settings=TrainSettings(epochs=1), sampler=Fixed(net.space.largest))
    assert [line["widths"] for line in record.history[0]["validation"]] == [net.space.largest.to_json()]


def test_naive_sharing_is_followed_at_every_switch():
    net = toy_net(batch_norm="naive")
    switches = [net.space.uniform(ratio) for ratio in (0.5, 0.75, 1.0)]
    record = train(net, settings=TrainSettings(epochs=1, distillation=False), sampler=SwitchList(switches))
    assert len(record.history[0]["validation"]) == 3


def test_a_network_without_batch_norm_is_followed_too():
    plain = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 3))
    net = convert(plain, (torch.zeros(2, 1, 8, 8),), min_ratio=0.5)
    sampler = SwitchList([net.space.uniform(0.5), net.space.largest])
    record = train(net, settings=TrainSettings(epochs=1), sampler=sampler)
    assert len(record.history[0]["validation"]) == 2


def test_no_gradients_are_left_behind():
    net = toy_net()
    train(net, settings=TrainSettings(epochs=1))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_validation_comes_as_often_as_asked_and_at_the_end():
    record = train(toy_net(), settings=TrainSettings(epochs=5, validate_every=2))
    assert [bool(entry["validation"]) for entry in record.history] == [False, True, False, True, True]


def test_observers_hear_every_step_and_are_closed_even_after_an_error():
    watcher, failing = Watcher(), Watcher(at=1, error=ArithmeticError)
    train(toy_net(), settings=TrainSettings(epochs=2, lr=0.6), observers=[watcher])
    assert watcher.steps == [(step, pytest.approx(0.6 * (1 - step / 6))) for step in range(6)]
    assert watcher.epochs == [1, 2]
    with pytest.raises(ArithmeticError):
        train(toy_net(), observers=[failing, watcher])
    assert failing.closed
    assert watcher.closed


def test_an_average_is_what_training_leaves():
    plain, averaged = toy_net(), toy_net()
    train(plain, settings=TrainSettings(epochs=2))
    train(averaged, settings=TrainSettings(epochs=2, ema_decay=0.9))
    assert not same(state(plain), state(averaged))


@pytest.mark.parametrize(
    ("choice", "divisor", "expected"), [("auto", 8, True), ("auto", 4, False), ("never", 8, False)]
)
def test_channels_last_where_it_pays(choice, divisor, expected):
    net = toy_net(divisor=divisor, min_ratio=0.25 if divisor == 4 else 0.5)
    train(net, settings=TrainSettings(epochs=1, channels_last=choice))
    weight = dict(net.named_parameters())["model.mix.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last) == expected


def test_nothing_is_printed_where_there_is_no_terminal(capfd):
    net = toy_net()
    fit(net, ToyTask(), sampler=Fixed(net.space.largest), settings=TrainSettings(epochs=1), progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{"curves": True}, {"resume": True}], ids=str)
def test_what_needs_a_folder_says_so(options):
    with pytest.raises(RecipeError, match="pass folder="):
        train(toy_net(), **options)


def test_another_kind_of_task_needs_no_other_loop():
    class Restore:
        def __init__(self):
            self.error, self.count = 0.0, 0

        def update(self, outputs, batch):
            self.error += float((outputs["sum"] - batch[1]).square().sum())
            self.count += len(batch[1])

        def compute(self):
            return {"squared_error": self.error / self.count}

    class Regression(ToyTask):
        name, metric, higher_is_better = "regression", "squared_error", False

        def forward(self, net, batch):
            return {"sum": net(batch[0]).sum(1), "parts": ()}

        def loss(self, outputs, batch):
            return (outputs["sum"] - batch[1]).square().mean()

        def distillation_loss(self, outputs, target, batch):
            return (outputs["sum"] - target["sum"]).abs().mean()

        def metrics(self):
            return Restore()

    record = train(toy_net(), settings=TrainSettings(epochs=6, lr=0.01), task=Regression())
    assert not record.higher_is_better
    errors = [entry["validation"][0]["figures"]["squared_error"] for entry in record.history]
    assert errors[-1] < errors[0]
