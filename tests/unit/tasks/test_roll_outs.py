"""Roll-outs: whose they are, what follows from their seed, and that they are stable-baselines3's."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import slimmable
from slimmable.models.policies import vector_policy
from slimmable.tasks import EnvironmentSettings, PpoSettings, ReinforcementLearningTask
from slimmable.tasks.reinforcement import acting
from slimmable.train import AdamW, Constant, Fixed, TrainSettings, fit
from tests.unit.tasks.corridor import LENGTH, NAME, PAINTED, Stubborn, register

CARTPOLE = EnvironmentSettings(parallel=2)
PPO = PpoSettings(steps=8, roll_outs=2, passes=2, batch_size=8)


@pytest.fixture(autouse=True, scope="module")
def _corridor():
    register()


def task_of(environment=CARTPOLE, ppo=PPO):
    return ReinforcementLearningTask(environment, ppo=ppo)


def elastic(seed=0):
    torch.manual_seed(seed)
    return slimmable.convert(vector_policy(2, numbers=4), (torch.randn(2, 4),), min_ratio=0.25)


def batches(net, *, epoch=0, seed=0, environment=CARTPOLE, ppo=PPO):
    return list(task_of(environment, ppo).train_batches(net, epoch=epoch, seed=seed))


def same(some, others):
    return all(
        torch.equal(a, b) for one, other in zip(some, others, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_batches_are_as_many_as_said_and_each_step_is_in_as_many_as_there_are_passes():
    found = batches(vector_policy(2, numbers=4))

    assert len(found) == len(task_of().train_batches(nn.Identity(), epoch=0, seed=0)) == 2 * 2 * 2
    for roll_out in (found[:4], found[4:]):
        first, second = (torch.cat([batch.observations for batch in each]) for each in (roll_out[:2], roll_out[2:]))
        assert not torch.equal(first, second)
        assert sorted(first.tolist()) == sorted(second.tolist())
        assert len(first) == 16


class Looking(nn.Module):
    """Notes the shapes of what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = set()

    def forward(self, x):
        self.seen.add(tuple(x.shape[1:]))
        return torch.zeros(len(x), 2) + self.weight, torch.zeros(len(x), 1)


def test_pictures_have_their_channels_first_wherever_they_are_seen():
    environment = EnvironmentSettings(name=PAINTED, parallel=2, validation_episodes=1, test_episodes=1)
    task, net = task_of(environment), Looking()

    for batch in task.train_batches(net, epoch=0, seed=0):
        task.forward(net, batch)
    for batch in task.test_batches():
        task.forward(net, batch)
    for (seen,) in task.calibration_batches(samples=8, seed=0):
        net(seen)

    assert net.seen == {(3, 12, 16)}
    assert tuple(task.example_inputs()[0].shape[1:]) == (3, 12, 16)


def test_they_follow_from_seed_epoch_and_weights():
    net = vector_policy(2, numbers=4)
    first = batches(net)
    torch.randn(3)

    assert same(batches(copy.deepcopy(net)), first)
    assert not same(batches(net, epoch=1), first)
    assert not same(batches(net, seed=1), first)
    nn.init.constant_(net.actor.bias, 1.0)
    assert not same(batches(net), first)


def generators():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def test_no_trace_is_left_in_the_generators():
    net = vector_policy(2, numbers=4)
    before = generators()

    batches(net)

    assert generators() == before


@pytest.mark.slow
def test_environments_in_processes_give_the_same():
    net = vector_policy(2, numbers=4)

    assert same(batches(net, environment=replace(CARTPOLE, processes=True)), batches(net))


def test_a_roll_out_is_made_by_the_weights_that_the_one_before_left():
    net = Stubborn(0)
    found = iter(task_of(replace(CARTPOLE, name=NAME)).train_batches(net, epoch=0, seed=0))

    first = [next(found) for _ in range(4)]
    net.action = 1
    second = list(found)

    assert {batch.actions.sum().item() for batch in first} == {0}
    assert {batch.actions.sum().item() for batch in second} == {8}


def test_the_network_acts_in_evaluation_mode_and_comes_back_in_its_own():
    net = Stubborn(1).train()

    found = batches(net, environment=replace(CARTPOLE, name=NAME))

    assert net.training
    assert net.dropout.training
    # With dropout, values would be twice what is seen, or nothing, and so would the advantages.
    for batch in found:
        values = batch.returns - batch.advantages
        torch.testing.assert_close(values, batch.observations[:, 0])


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_it_acts_at_the_widths_it_has(ratio):
    net = elastic()
    with net.at(net.space.uniform(ratio)):
        batch = next(iter(task_of().train_batches(net, epoch=0, seed=0)))

    plain = net.extract(net.space.uniform(ratio))
    with torch.no_grad():
        logits, values = plain(batch.observations)
    logs = logits.log_softmax(1)[torch.arange(len(logits)), batch.actions]
    torch.testing.assert_close(batch.log_probabilities, logs)
    torch.testing.assert_close(batch.returns - batch.advantages, values[:, 0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("discount", "lam"), [(0.99, 0.95), (0.5, 1.0), (0.9, 0.0)])
def test_advantages_are_direct_sums_up_to_the_end_of_the_episode(discount, lam, monkeypatch):
    kept = keep_collectors(monkeypatch)
    ppo = PpoSettings(steps=13, roll_outs=1, passes=1, batch_size=26, discount=discount, gae_lambda=lam)

    batches(Stubborn(1), environment=replace(CARTPOLE, name=NAME), ppo=ppo)

    buffer = kept[0].rollout_buffer
    last = kept[0]._last_obs
    for index in range(2):
        # The buffer is laid out environment by environment once it has been read.
        part = slice(13 * index, 13 * index + 13)
        seen, found = buffer.observations[part], buffer.advantages[part, 0]
        worth = [*seen[:, 0].tolist(), float(last[index, 0])]
        length = int(seen[0, 1])
        assert length in (LENGTH, LENGTH + 1)
        for start in range(13):
            expected, weight = 0.0, 1.0
            for at in range(start, 13):
                ends = int(worth[at]) == length - 1
                reward = 1.0 + 10.0 * ends
                expected += weight * (reward + (0.0 if ends else discount * worth[at + 1]) - worth[at])
                weight *= discount * lam
                if ends:
                    break
            assert found[start] == pytest.approx(expected, abs=1e-4)


def keep_collectors(monkeypatch):
    kept = []

    class Kept(acting.Collector):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            kept.append(self)

    monkeypatch.setattr(acting, "Collector", Kept)
    return kept


def weights(net):
    return {name: tensor.detach().clone() for name, tensor in net.named_parameters()}


def test_a_step_of_the_loop_is_one_of_stable_baselines(monkeypatch):
    ppo = PpoSettings(steps=32, roll_outs=1, passes=1, batch_size=64, entropy_weight=0.02)
    net, kept = elastic(), keep_collectors(monkeypatch)
    nn.init.normal_(net.model.actor.weight)
    before = weights(net)
    settings = TrainSettings(
        epochs=1, lr=3e-4, schedule=Constant(), optimizer=AdamW(eps=1e-5), weight_decay=0.0, clip_norm=0.5
    )

    environment = EnvironmentSettings(parallel=2, validation_episodes=1)
    fit(net, task_of(environment, ppo), sampler=Fixed(net.space.largest), settings=settings, progress=False)

    ours = weights(net)
    with torch.no_grad():
        for name, tensor in net.named_parameters():
            tensor.copy_(before[name])
    [theirs] = kept
    theirs.policy.optimizer = torch.optim.Adam(net.parameters(), lr=3e-4, eps=1e-5)
    theirs.train()
    for name, tensor in net.named_parameters():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-7)
    assert all(not torch.equal(ours[name], before[name]) for name in ours)


def test_what_random_actions_meet():
    task = task_of(replace(CARTPOLE, name=NAME))

    found = [batch for [batch] in task.calibration_batches(samples=7, seed=3)]

    assert [tuple(batch.shape) for batch in found] == [(2, 3), (2, 3), (2, 3), (1, 3)]
    assert [batch[0, 0].item() for batch in found] == [0, 1, 2, 3]
    again = [batch for [batch] in task.calibration_batches(samples=7, seed=3)]
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
