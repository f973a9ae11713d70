"""An exponential moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slimmable.errors import CheckpointError


class MovingAverage:
    r"""Average of a network's parameters and buffers over the steps.

    After step :math:`t` (from 1), :math:`a \leftarrow \beta_t a + (1 - \beta_t) w` with
    :math:`\beta_t = \min(\beta, (1 + t) / (10 + t))`: the first steps, far from any optimum, are forgotten soon.
    Buffers (tracked batch-norm statistics) are averaged like weights; whole-number buffers are copied.

    Args:
        net: The network whose present state the average starts from.
        decay: :math:`\beta`.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(net.weight)
        >>> average = MovingAverage(net, decay=0.9)
        >>> _ = nn.init.ones_(net.weight)
        >>> average.update(net)  # decay 2 / 11 at the first step
        >>> round(average.tensors["weight"].item(), 6)
        0.818182
    """

    def __init__(self, net: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.tensors = {name: tensor.clone() for name, tensor in _state(net)}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Take in the network's present state."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in _state(net):
            if tensor.is_floating_point():
                self.tensors[name].lerp_(tensor, 1.0 - decay)
            else:
                self.tensors[name].copy_(tensor)

    @torch.no_grad()
    def copy_to(self, net: nn.Module) -> None:
        """Give the network the averaged state, in place."""
        for name, tensor in _state(net):
            tensor.copy_(self.tensors[name])

    @contextmanager
    def applied(self, net: nn.Module) -> Iterator[None]:
        """The network has the averaged state inside the block, and its own again after it."""
        own = {name: tensor.clone() for name, tensor in _state(net)}
        self.copy_to(net)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in _state(net):
                    tensor.copy_(own[name])

    def restore(self, net: nn.Module, tensors: Mapping[str, Tensor], *, steps: int) -> None:
        """Continue from stored tensors of ``net``, which may have got other buffers since the average began.

        Raises:
            CheckpointError: The names are not this network's.
        """
        own = dict(_state(net))
        if set(tensors) != set(own):
            names = ", ".join(sorted(set(tensors) ^ set(own))[:3])
            raise CheckpointError(
                f"the averaged weights in the checkpoint are of another network; they differ in {names}"
            )
        self.tensors = {name: torch.empty_like(tensor).copy_(tensors[name]) for name, tensor in own.items()}
        self.steps = steps


def _state(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in net.named_parameters():
        yield name, parameter.detach()
    yield from net.named_buffers()
