"""One training step: several widths, one batch, one gradient."""

import copy
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from numbers import Number
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths
from slimmable.errors import TrainingError
from slimmable.measure.prefix import SharedPrefix, in_prefix_order
from slimmable.train.task import Batch, Outputs, Task

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def train_step(
    net: SlimmableModel,
    batch: Batch,
    *,
    task: Task,
    widths_list: Sequence[Widths],
    distill: bool,
    precision: Literal["float32", "bfloat16"] = "float32",
    dropout_widest_only: bool = False,
) -> list[Tensor]:
    r"""Add to every parameter's ``.grad`` the sum of its gradients at ``widths_list``.

    With :math:`y_w` the network's outputs at widths :math:`w`, and :math:`w_1` the first,

    .. math:: g = \nabla \ell(y_{w_1}) + \sum_{w \ne w_1} \nabla \ell(y_w)
        \quad\text{or, distilled,}\quad
        g = \nabla \ell(y_{w_1}) + \sum_{w \ne w_1} \nabla d(y_w, \operatorname{stop}(y_{w_1})),

    :math:`\ell` being the loss against the labels and :math:`d` the one against a prediction. Each width's graph is
    freed before the next width runs: summing the losses first would take 2.5 times the memory.

    Args:
        net: A converted model in training mode, so that the teacher's batch norms use batch statistics as its
            students' do. Its parameters' gradients are left to be summed up further; clear them between steps.
        batch: One batch of the task.
        task: Gives the forward pass and the losses.
        widths_list: Widths to train, the teacher first.
        distill: Whether the widths after the first learn from its outputs instead of the labels.
        precision: ``bfloat16`` runs the forward pass and the loss under autocast.
        dropout_widest_only: Whether dropout layers act at the first widths only.

    Returns:
        The losses in the order of ``widths_list``: scalars, detached, still on the device.

    Raises:
        TrainingError: The outputs hold objects that distillation cannot cut off from the graph.

    Cost:
        One forward and one backward pass per width; memory of the widest alone.

    References:
        Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, Algorithm 1.
    """
    device = next(net.parameters()).device
    losses: list[Tensor] = []
    target: Outputs = None
    with net.shared_gradients() as commit:
        for index, widths in enumerate(widths_list):
            with net.at(widths), _dropout(net, active=index == 0 or not dropout_widest_only):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    outputs = task.forward(net, batch)
                    if distill and index > 0:
                        loss = task.distillation_loss(outputs, target, batch)
                    else:
                        loss = task.loss(outputs, batch)
                if distill and index == 0 and len(widths_list) > 1:
                    target = detached(outputs)
                loss.backward()
                commit()
            losses.append(loss.detach())
    return losses


def batch_losses(
    net: SlimmableModel,
    batch: Batch,
    *,
    task: Task,
    widths_list: Sequence[Widths],
    precision: Literal["float32", "bfloat16"] = "float32",
) -> list[float]:
    """Losses of one batch against its labels at many widths, leaving no trace in the network.

    Batch norms use the batch's statistics, as in training, and running ones stay as they were; dropout is off.

    Args:
        net: A converted model in training mode.
        batch: One batch of the task.
        task: Gives the forward pass and the loss.
        widths_list: The widths; one that stands there twice is run once, and what several have in common as well.
        precision: As in training.

    Cost:
        At most one forward pass for each distinct width, no gradients; memory of all activations of one pass.
    """
    device = next(net.parameters()).device
    kept = [(buffer, buffer.clone()) for buffer in net.buffers()]
    found: dict[Widths, Tensor] = {}
    try:
        with torch.no_grad(), _dropout(net, active=False), SharedPrefix() as prefix:
            for widths in in_prefix_order(widths_list):
                with net.at(widths), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    outputs = prefix.run(lambda: task.forward(net, batch))
                    found[widths] = task.loss(outputs, batch).float()
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
    losses = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True)) if found else {}
    return [losses[widths] for widths in widths_list]


@contextmanager
def _dropout(net: SlimmableModel, *, active: bool) -> Iterator[None]:
    """Dropout layers as they are, or off inside the context."""
    layers = [] if active else [module for module in net.modules() if isinstance(module, _DROPOUT) and module.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def detached(outputs: Outputs) -> Outputs:
    """The same structure with every tensor cut off from the graph.

    Structures are what ``torch.utils._pytree`` knows (tuples, named ones too, lists, mappings, outputs of transformers,
    what users register), other mappings that can be copied, and dataclasses.

    Raises:
        TrainingError: An object of another type, which may hold tensors.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> detached({"boxes": [x * 2], "count": 3})
        {'boxes': [tensor([2., 2.])], 'count': 3}
    """
    return tree_map(_detached_leaf, outputs)


_PLAIN = (type(None), str, bytes, Number, Enum, torch.Size, torch.dtype, torch.device, np.ndarray, np.generic)
"""Values that hold no tensor."""


def _detached_leaf(value: Any) -> Any:
    """A tensor without its graph, or an object that only we take apart."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, MutableMapping):
        found = copy.copy(value)
        for key, each in value.items():
            found[key] = detached(each)
        return found
    if is_dataclass(value) and not isinstance(value, type):
        found = copy.copy(value)
        for each in fields(value):
            object.__setattr__(found, each.name, detached(getattr(value, each.name)))  # frozen ones refuse setattr
        return found
    raise TrainingError(
        f"outputs hold a {type(value).__module__}.{type(value).__qualname__}, whose tensors distillation cannot cut "
        "off from the graph; expected tensors in tuples, lists, mappings or dataclasses: return one of these from the "
        "task's forward, register the type with torch.utils._pytree.register_pytree_node, or turn distillation off"
    )
