"""Which parameters are decayed, and the optimizers."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from slimmable.core.model import SlimmableModel
from slimmable.errors import MissingDependencyError, RecipeError

Groups = list[dict[str, Any]]


def parameter_groups(net: SlimmableModel, *, weight_decay: float, decay_depthwise: bool = False) -> Groups:
    """All trainable parameters in two groups, of which only the first is decayed.

    Decayed are the weights of convolutions and linear layers (attention's projections among them). Biases, the gains
    and offsets of every norm (private ones of switches too), other one-dimensional parameters, and anything of another
    kind are not: a decayed batch-norm gain shrinks the narrow widths' signal. The papers decay no depthwise
    convolution either.

    Args:
        net: A converted model. Layers are told by their type, never by their name.
        weight_decay: Decay of the first group.
        decay_depthwise: Decay convolutions with one input channel per group too.

    Returns:
        Groups for a ``torch.optim`` optimizer; together they hold each trainable parameter exactly once. A group
        without parameters is left out.

    References:
        Yu et al. Slimmable Neural Networks. ICLR 2019, training details.
    """
    chosen = {id(weight) for module in net.model.modules() for weight in _decayed(module, decay_depthwise)}
    trainable = [parameter for parameter in net.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if id(parameter) in chosen]
    others = [parameter for parameter in trainable if id(parameter) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _decayed(module: nn.Module, depthwise: bool) -> Iterator[Parameter]:
    # Not module.weight: in an elastic module that is the active part of the parameter.
    own = dict(module.named_parameters(recurse=False))
    if isinstance(module, _CONVOLUTIONS):
        if not depthwise and 1 < module.groups == module.in_channels:
            return
        names: tuple[str, ...] = ("weight",)
    elif isinstance(module, nn.Linear):
        names = ("weight",)
    elif isinstance(module, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    else:
        return
    yield from (own[name] for name in names if name in own)


class OptimizerSettings(Protocol):
    """An optimizer, described."""

    def build(self, groups: Groups, *, lr: float) -> Optimizer:
        """The optimizer over ``groups``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Stochastic gradient descent, fused into one kernel where torch has one (CPU, CUDA).

    Attributes:
        momentum: Momentum, not dampened.
        nesterov: Nesterov's momentum; the papers use it throughout.

    Raises:
        RecipeError: A momentum outside [0, 1), or Nesterov's without momentum.
    """

    momentum: float = 0.9
    nesterov: bool = True
    kind: Literal["sgd"] = "sgd"

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise RecipeError(f"Sgd.momentum is {self.momentum}; expected at least 0 and below 1")
        if self.nesterov and self.momentum == 0.0:
            raise RecipeError("Sgd.nesterov is set with momentum 0; expected a momentum above 0, such as 0.9")

    def build(self, groups: Groups, *, lr: float) -> Optimizer:
        """The optimizer over ``groups``."""
        fused = _fusible(groups)
        made = torch.optim.SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, fused=fused)
        if fused and self.momentum > 0:
            # The fused kernel takes all buffers or none, and a step may leave the batch norms of some switches alone.
            for group in made.param_groups:
                for parameter in group["params"]:
                    made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return _counted(made)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay, fused where torch can.

    Attributes:
        betas: Decay of the first and the second moment.
        eps: Added to the root of the second moment.

    References:
        Loshchilov, Hutter. Decoupled Weight Decay Regularization. ICLR 2019.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    kind: Literal["adamw"] = "adamw"

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise RecipeError(f"AdamW.betas is {self.betas}; expected two numbers, at least 0 and below 1")

    def build(self, groups: Groups, *, lr: float) -> Optimizer:
        """The optimizer over ``groups``."""
        return _counted(torch.optim.AdamW(groups, lr=lr, betas=self.betas, eps=self.eps, fused=_fusible(groups)))


@dataclass(frozen=True, kw_only=True)
class Timm:
    """Any optimizer of timm by its name, such as ``lamb``, ``adopt`` or ``muon``.

    Attributes:
        name: A name of ``timm.optim.list_optimizers()``.
        options: Further arguments, such as ``{"momentum": 0.9}``.

    Raises:
        MissingDependencyError: timm is not installed.
        RecipeError: timm knows no such optimizer, or the optimizer does not take the options.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["timm"] = "timm"

    def build(self, groups: Groups, *, lr: float) -> Optimizer:
        """The optimizer over ``groups``."""
        try:
            timm = importlib.import_module("timm.optim")
        except ImportError as error:
            raise MissingDependencyError(
                f"the optimizer {self.name!r} needs timm, which is not installed: pip install timm"
            ) from error
        try:
            return timm.create_optimizer_v2(groups, opt=self.name, lr=lr, **self.options)
        except (TypeError, ValueError, AssertionError) as error:
            raise RecipeError(
                f"timm cannot build the optimizer {self.name!r} with {dict(self.options)}: {error}"
            ) from error


AnyOptimizer = Sgd | AdamW | Timm


def _fusible(groups: Groups) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point() for parameter in parameters)


def _counted(optimizer: Optimizer) -> Optimizer:
    """Let the weights' version counters grow with every step, as they do under any optimizer that is not fused.

    Fused kernels write past the counters, by which a network tells that its calibration has gone stale.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def count(*_: object) -> None:
        torch.autograd.graph.increment_version(parameters)

    optimizer.register_step_post_hook(count)
    return optimizer
