"""PPO's loss and the divergence of policies, against slow oracles."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from slimmable.errors import RecipeError
from slimmable.tasks import EnvironmentSettings, PpoSettings
from slimmable.tasks.reinforcement.losses import RollOutBatch, policy_divergence, ppo_loss


def batch_of(size=7, actions=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(size, actions, generator=generator).double(), torch.randn(size, 1, generator=generator)
    chosen = torch.randint(actions, (size,), generator=generator)
    numbers = torch.randn(3, size, generator=generator).double()
    return (outputs[0], outputs[1].double()), RollOutBatch(
        observations=torch.empty(size, 0),
        actions=chosen,
        log_probabilities=-numbers[0].abs(),
        advantages=3 * numbers[1] + 2,
        returns=numbers[2],
    )


@pytest.mark.parametrize("clip", [0.1, 0.5])
def test_the_loss_is_that_of_a_sum_over_steps(clip):
    outputs, batch = batch_of()
    settings = PpoSettings(clip=clip, value_weight=0.7, entropy_weight=0.03)

    found = ppo_loss(outputs, batch, settings)

    advantages = batch.advantages.tolist()
    mean = sum(advantages) / len(advantages)
    spread = math.sqrt(sum((each - mean) ** 2 for each in advantages) / (len(advantages) - 1))
    total = 0.0
    for index, advantage in enumerate(advantages):
        policy = Categorical(logits=outputs[0][index])
        ratio = math.exp(policy.log_prob(batch.actions[index]).item() - batch.log_probabilities[index].item())
        scaled = (advantage - mean) / (spread + 1e-8)
        surrogate = min(ratio * scaled, min(max(ratio, 1 - clip), 1 + clip) * scaled)
        error = (outputs[1][index, 0] - batch.returns[index]).item() ** 2
        total += 0.7 * error - surrogate - 0.03 * policy.entropy().item()
    assert found.item() == pytest.approx(total / len(advantages))


@pytest.mark.parametrize(
    ("ratio", "sign", "learns"), [(1.5, 1, False), (0.5, 1, True), (1.5, -1, True), (0.5, -1, False)]
)
def test_what_has_gone_far_enough_is_not_pushed_further(ratio, sign, learns):
    logits = torch.zeros(2, 2, requires_grad=True)
    # The second step makes the first one's advantage positive or negative, and is at the ratio 1 with either action.
    advantages = torch.tensor([1.0, -1.0]) * sign
    logs = torch.tensor([math.log(0.5 / ratio), math.log(0.5)])
    batch = RollOutBatch(torch.empty(2, 0), torch.tensor([0, 1]), logs, advantages, torch.zeros(2))

    ppo_loss((logits, torch.zeros(2, 1)), batch, PpoSettings(entropy_weight=0.0, clip=0.2)).backward()

    assert logits.grad is not None
    assert bool(logits.grad[0].any()) == learns
    assert logits.grad[1].any()


def test_advantages_count_up_to_their_scale_and_offset():
    outputs, batch = batch_of()
    settings = PpoSettings()

    found = ppo_loss(outputs, batch._replace(advantages=100 * batch.advantages - 40), settings)

    assert found.item() == pytest.approx(ppo_loss(outputs, batch, settings).item())


def test_divergence_is_that_of_the_distributions():
    (outputs, _), (target, _) = batch_of(seed=1), batch_of(seed=2)

    found = policy_divergence(outputs, target)

    expected = kl_divergence(Categorical(logits=target[0]), Categorical(logits=outputs[0])).mean()
    assert found.item() == pytest.approx(expected.item())
    assert policy_divergence(outputs, outputs).item() == pytest.approx(0, abs=1e-12)


def test_the_widest_learns_nothing_from_the_others():
    logits, target = (torch.randn(4, 3, requires_grad=True) for _ in range(2))

    policy_divergence((logits, torch.zeros(4, 1)), (target, torch.zeros(4, 1))).backward()

    assert target.grad is None
    assert logits.grad is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("roll_outs", 0),
        ("passes", 0),
        ("batch_size", 1),
        ("discount", 1.1),
        ("gae_lambda", -0.1),
        ("clip", 0.0),
        ("value_weight", -1.0),
        ("entropy_weight", -1.0),
        ("kl_weight", -1.0),
    ],
)
def test_values_out_of_range(key, value):
    with pytest.raises(RecipeError, match=rf"PpoSettings.{key} is {value}; expected"):
        PpoSettings(**{key: value})


def test_batches_divide_a_roll_out():
    assert PpoSettings(steps=6, roll_outs=3, passes=2, batch_size=4).updates(parallel=2) == 3 * 2 * 3
    with pytest.raises(RecipeError, match="a roll-out is 6 steps of 3 environments, 18 in all"):
        PpoSettings(steps=6, batch_size=4).updates(parallel=3)
    with pytest.raises(RecipeError, match=r"EnvironmentSettings.parallel is 0"):
        EnvironmentSettings(parallel=0)
