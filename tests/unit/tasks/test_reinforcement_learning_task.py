"""The task of acting, from its environment to its figures."""

import math
import sys

import pytest
import torch
from torch import nn

import slimmable
from slimmable.errors import DataError, MissingDependencyError, RecipeError
from slimmable.measure.evaluation import evaluate
from slimmable.models.policies import vector_policy
from slimmable.tasks import EnvironmentSettings, PpoSettings, ReinforcementLearningTask
from slimmable.tasks.reinforcement.acting import TRAINING_SEEDS
from slimmable.tasks.reinforcement.returns import Episodes, RewardMetric
from slimmable.tasks.reinforcement_learning import TEST_SEEDS
from slimmable.train import AdamW, Fixed, Sandwich, Task, TrainSettings, fit, train_step
from tests.unit.tasks.corridor import LENGTH, NAME, Stubborn, register

PPO = PpoSettings(steps=8, roll_outs=1, passes=1, batch_size=16)
SETTINGS = TrainSettings(epochs=2, lr=1e-2, optimizer=AdamW(), weight_decay=0.0)


@pytest.fixture(autouse=True, scope="module")
def _corridor():
    register()


def task_of(*, greedy=True, ppo=PPO, **options):
    environment = EnvironmentSettings(name=NAME, parallel=2, validation_episodes=3, test_episodes=5, greedy=greedy)
    return ReinforcementLearningTask(environment, ppo=ppo, **options)


def elastic(task, seed=0):
    torch.manual_seed(seed)
    return slimmable.convert(task.model(), task.example_inputs(), min_ratio=0.25)


def test_it_is_a_task():
    task = task_of()
    assert isinstance(task, Task)
    metric = task.metrics()
    for batch in task.test_batches():
        metric.update(task.forward(Stubborn(0), batch), batch)
    assert task.metric in metric.compute()


@pytest.mark.parametrize("action", [0, 1])
@pytest.mark.parametrize("greedy", [True, False])
def test_a_policy_that_always_does_the_same_earns_what_is_known(action, greedy):
    task, net = task_of(greedy=greedy), Stubborn(action).train()
    metric = task.metrics()

    for batch in task.test_batches():
        metric.update(task.forward(net, batch), batch)

    found = metric.compute()
    # Odd seeds make an episode longer by one: two of five.
    assert TEST_SEEDS % 2 == 0
    assert found["episodes"] == 5
    assert found["mean_length"] == LENGTH + 2 / 5
    assert found["mean_reward"] == pytest.approx(10 + action * (LENGTH + 2 / 5))
    assert found["min_reward"] == 10 + action * LENGTH
    assert found["std_reward"] == pytest.approx(action * math.sqrt(2 / 5 * 3 / 5))
    assert net.training


def test_episodes_of_training_validation_and_test_begin_differently():
    task = ReinforcementLearningTask(EnvironmentSettings(parallel=8, validation_episodes=20, test_episodes=9))

    def seeds(batches):
        return [batch.seed + index for batch in batches for index in range(batch.number)]

    assert [batch.number for batch in task.validation_batches()] == [8, 8, 4]
    assert seeds(task.validation_batches()) == list(range(20))
    assert seeds(task.test_batches()) == list(range(TEST_SEEDS, TEST_SEEDS + 9))
    assert TRAINING_SEEDS > TEST_SEEDS


def test_episodes_follow_from_their_seed():
    task, net = ReinforcementLearningTask(EnvironmentSettings(greedy=False)), vector_policy(2, numbers=4)

    first, again, other = (task.forward(net, Episodes(seed, 3)) for seed in (5, 5, 6))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_width_plays_for_itself():
    task = ReinforcementLearningTask(EnvironmentSettings(parallel=2, test_episodes=2, greedy=False))
    net = elastic(task)
    nn.init.normal_(net.model.actor.weight)
    widths = [net.space.uniform(ratio) for ratio in (1.0, 0.5, 0.25)]

    found = evaluate(net, task.test_batches(), widths, forward=task.forward, metric_factory=task.metrics)

    for each, figures in zip(widths, found, strict=True):
        metric = task.metrics()
        for batch in task.test_batches():
            metric.update(task.forward(net.extract(each), batch), batch)
        assert metric.compute() == figures
    assert len({figures["mean_reward"] for figures in found}) > 1


def test_no_episode_is_no_figure():
    with pytest.raises(DataError, match="no episode was played"):
        RewardMetric().compute()


@pytest.mark.parametrize("distilled", [True, False])
def test_narrow_widths_learn_from_what_the_widest_did(distilled):
    weight = 0.3
    task = task_of(ppo=PpoSettings(steps=8, roll_outs=1, passes=1, batch_size=16, kl_weight=weight))
    net = elastic(task).train()
    nn.init.normal_(net.model.actor.weight)
    batch = next(iter(task.train_batches(net, epoch=0, seed=0)))
    both = [net.space.largest, net.space.smallest]

    found = train_step(net, batch, task=task, widths_list=both, distill=distilled)

    with torch.no_grad():
        wide, narrow = (net.extract(widths)(batch.observations) for widths in both)
    expected = [task.loss(wide, batch).item(), task.loss(narrow, batch).item()]
    gap = (wide[0].softmax(1) * (wide[0].log_softmax(1) - narrow[0].log_softmax(1))).sum(1).mean().item()
    assert found[0].item() == pytest.approx(expected[0], rel=1e-4)
    assert found[1].item() == pytest.approx(expected[1] + weight * gap * distilled, rel=1e-4)


def test_training_finds_the_action_that_pays_at_every_width():
    task = task_of(ppo=PpoSettings(steps=64, roll_outs=4, passes=4, batch_size=64, discount=0.5))
    net = elastic(task)

    fit(net, task, sampler=Sandwich(net.space), settings=SETTINGS, progress=False)

    widths = [net.space.uniform(ratio) for ratio in (0.25, 0.5, 0.75, 1.0)]
    found = evaluate(net, task.test_batches(), widths, forward=task.forward, metric_factory=task.metrics)
    assert [figures["min_reward"] for figures in found] == [10 + LENGTH] * 4


@pytest.mark.parametrize("ratio", [0.25, 1.0])
def test_an_independent_network_acts_itself(ratio, monkeypatch):
    task = task_of()
    net, met = elastic(task), []
    forward = ReinforcementLearningTask.forward

    def watched(self, net, batch):
        if not isinstance(batch, Episodes):
            logs = forward(self, net, batch)[0].log_softmax(1).detach()
            met.append((batch.log_probabilities, logs[torch.arange(len(logs)), batch.actions]))
        return forward(self, net, batch)

    monkeypatch.setattr(ReinforcementLearningTask, "forward", watched)
    fit(net, task, sampler=Fixed(net.space.uniform(ratio)), settings=SETTINGS, progress=False)

    for old, new in met:
        torch.testing.assert_close(old, new)
    assert len(met) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Pendulum-v1", r"Pendulum-v1 has the actions Box.*; expected finitely many"),
        ("FrozenLake-v1", r"FrozenLake-v1 has the observations Discrete\(16\); expected an array"),
        ("NoSuchThing-v1", "the environment 'NoSuchThing-v1' cannot be made: "),
    ],
)
def test_environments_that_do_not_suit(name, message):
    if name == "FrozenLake-v1":
        pytest.importorskip("pygame")
    with pytest.raises(RecipeError, match=message):
        ReinforcementLearningTask(EnvironmentSettings(name=name)).model()


@pytest.mark.parametrize("absent", ["gymnasium", "stable_baselines3.common.env_util"])
def test_what_is_not_installed_is_named(absent, monkeypatch):
    monkeypatch.delitem(sys.modules, "slimmable.tasks.reinforcement.environments")
    monkeypatch.setitem(sys.modules, absent, None)

    with pytest.raises(MissingDependencyError, match=rf"needs {absent}, which .*pip install 'slimmable\[reinforcement"):
        ReinforcementLearningTask().model()


def test_atari_games_are_an_extra_of_their_own(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'slimmable\[atari\]'"):
        ReinforcementLearningTask(EnvironmentSettings(name="BreakoutNoFrameskip-v4", atari=True)).model()


def test_a_network_that_returns_something_else_is_refused():
    task = task_of(network=lambda: nn.Linear(3, 2))
    batch = next(iter(task_of().train_batches(Stubborn(0), epoch=0, seed=0)))

    with pytest.raises(DataError, match=r"returned Tensor; expected logits of shape \(16, 2\) and values of shape"):
        task.forward(task.model(), batch)


def test_options_out_of_range():
    with pytest.raises(RecipeError, match="width goes with a network's name"):
        task_of(network=nn.Identity, width=0.5)
    with pytest.raises(RecipeError, match="expected a divisor"):
        task_of(ppo=PpoSettings(steps=3, batch_size=4))


def test_to_moves_batches_and_keeps_the_rest():
    task = task_of()
    moved = task.to(torch.device("cpu"))

    assert moved is not task
    assert moved.environment is task.environment


def test_atari_games_are_seen_through_the_standard_wrappers():
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    environment = EnvironmentSettings(name="BreakoutNoFrameskip-v4", atari=True, parallel=2, greedy=False)
    ppo = PpoSettings(steps=24, roll_outs=1, passes=1, batch_size=48)
    task = ReinforcementLearningTask(environment, ppo=ppo, network="cnn", width=0.25)

    assert task.spaces == ((4, 84, 84), ("NOOP", "FIRE", "RIGHT", "LEFT"))
    net = task.model()
    [batch], [again] = (task.train_batches(net, epoch=0, seed=0) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(batch, again, strict=True))
    assert batch.observations.shape == (48, 4, 84, 84)
    assert batch.observations.min() == 0
    assert 100 < batch.observations.max() <= 255
    assert torch.equal(batch.observations, batch.observations.round())
    [[reward, length]] = task.forward(net, Episodes(0, 1)).tolist()
    # Five lives, each of which ends an episode of training, but not this one.
    assert length > 100
    assert 0 <= reward == int(reward)
