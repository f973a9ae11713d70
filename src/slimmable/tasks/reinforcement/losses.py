"""What a policy loses by its roll-outs."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slimmable.tasks.reinforcement.settings import PpoSettings

PolicyOutputs = tuple[Tensor, Tensor]
"""Logits of shape ``(B, actions)``, and values of shape ``(B, 1)``."""


class RollOutBatch(NamedTuple):
    """Steps of a roll-out, in any order: what was seen, what was done, and what came of it.

    ``log_probabilities`` are those that the policy that acted gave to its actions; all but ``observations`` have shape
    ``(B,)``. ``advantages`` are not normalised.
    """

    observations: Tensor
    actions: Tensor
    log_probabilities: Tensor
    advantages: Tensor
    returns: Tensor


def ppo_loss(outputs: PolicyOutputs, batch: RollOutBatch, settings: PpoSettings) -> Tensor:
    r"""Loss of proximal policy optimisation, mean over the batch.

    With :math:`\rho` the ratio of an action's probability now to that by which it was drawn, :math:`A` its advantage,
    normalised in the batch, :math:`R` its return, :math:`V` the value and :math:`H` the entropy,

    .. math:: -\min(\rho A, \operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A) + c_V (V - R)^2 - c_H H.

    For a width that did not act, :math:`\rho` compares it with the widest, which did: then the loss is that of learning
    from another's actions, and the minimum keeps the narrow policy near the one whose actions are known.

    Args:
        outputs: Of the policy that learns.
        batch: Of the policy that acted.
        settings: Of the loss.

    References:
        Schulman, Wolski, Dhariwal, Radford, Klimov. Proximal Policy Optimization Algorithms. arXiv 1707.06347, Eq. 7
        and 9.

    >>> batch = RollOutBatch(torch.zeros(2, 1), torch.tensor([0, 1]), torch.full((2,), 0.5).log(), *torch.ones(2, 2))
    >>> ppo_loss((torch.zeros(2, 2), torch.zeros(2, 1)), batch, PpoSettings(entropy_weight=0.0)).item()
    0.5
    """
    logits, values = outputs
    logs = F.log_softmax(logits, dim=1)
    chosen = logs.gather(1, batch.actions[:, None])[:, 0]
    spread = batch.advantages.std() + 1e-8
    advantages = (batch.advantages - batch.advantages.mean()) / spread
    ratio = torch.exp(chosen - batch.log_probabilities)
    clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages).mean()
    entropy = -(logs.exp() * logs).sum(1).mean()
    error = F.mse_loss(values[:, 0], batch.returns)
    return settings.value_weight * error - surrogate - settings.entropy_weight * entropy


def policy_divergence(outputs: PolicyOutputs, target: PolicyOutputs) -> Tensor:
    r"""Kullback-Leibler divergence :math:`\operatorname{KL}(\pi_{\text{target}} \| \pi)` in nats, mean over the batch.

    >>> policy_divergence((torch.zeros(3, 2), torch.zeros(3, 1)), (torch.zeros(3, 2), torch.zeros(3, 1))).item()
    0.0
    """
    logs, known = F.log_softmax(outputs[0], dim=1), F.log_softmax(target[0].detach(), dim=1)
    return F.kl_div(logs, known, reduction="batchmean", log_target=True)
