"""Batch-norm tables: what the normalisation layers of a network know of one width.

A slimmed layer meets other inputs at every width, so that means and variances (S-Net: gains and shifts too) belong to
a width. A table holds them for all layers of a network at one :class:`~slimmable.core.space.Widths`:

* ``private``: gain, shift and running statistics, trained for a switch [S-Net];
* ``tracked``: running statistics, followed during training (widest and narrowest width); they go stale when training
  goes on without their width;
* ``calibrated``: statistics measured for one state of the weights, or given with the network at a width between; they
  go stale when the weights change [US-Net].

References:
    S-Net: Yu, Yang, Xu, Yang, Huang. Slimmable Neural Networks. ICLR 2019, section 3.1.
    US-Net: Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, section 3.2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimmable.core.axes import Axis
from slimmable.core.space import Widths

Kind = Literal["private", "tracked", "calibrated"]

_PATIENCE = 10
"""How many times longer than usual training may go on without a switch before its running averages are stale."""


@dataclass(frozen=True, kw_only=True)
class NormLayer:
    """A normalisation layer with running statistics.

    Attributes:
        path: Where the network holds it.
        module: The layer.
        mean: Name of its buffer of means.
        variance: Name of its buffer of variances.
        axis: Its channels.
        affine: Names of its gain and shift, where it has them.
        fixed: Those of them that no training changes.
    """

    path: str
    module: nn.Module
    mean: str
    variance: str
    axis: Axis
    affine: tuple[str, ...]
    fixed: tuple[str, ...] = ()

    def tensors(self, *, affine: bool) -> dict[str, Tensor]:
        """The layer's own tensors at full width, by their names in a table."""
        found = {"mean": self.module._buffers[self.mean], "var": self.module._buffers[self.variance]}
        found |= {name: self.module._parameters[name] for name in (self.affine if affine else ())}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


class NormTable(nn.Module):
    """Statistics (and gains and shifts) of every normalisation layer at one width.

    Args:
        widths: The width they belong to.
        kind: What they are.
        tensors: ``mean_i``, ``var_i`` and ``count_i`` (batches seen) of the i-th layer, each of its active channels;
            in a private table ``weight_i`` and ``bias_i`` too, which become parameters.
        given: Whether the statistics came with the network.
        fixed: Names of tensors that no training changes.

    Attributes:
        version: What the statistics belong to: of calibrated ones the state of the weights, of others the step of
            training that they last took part in; None if they belong to nothing any more.
        followings: Steps of training that they took part in.
        known: Whether they are known to say anything; where they are not, the counts tell (:attr:`ready`).
    """

    def __init__(
        self,
        widths: Widths,
        kind: Kind,
        tensors: Mapping[str, Tensor],
        *,
        given: bool = False,
        fixed: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.widths = widths
        self.kind: Kind = kind
        self.version: int | None = None
        self.followings = 0
        self.known = given
        for name, tensor in tensors.items():
            if name.startswith(("mean_", "var_", "count_")):
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=name not in fixed))

    @property
    def ready(self) -> bool:
        """Whether the statistics say anything: given with the network, measured, or followed for a batch at least."""
        if not self.known:
            counts = [buffer for name, buffer in self.named_buffers() if name.startswith("count_")]
            self.known = self.kind == "calibrated" or bool(torch.stack(counts).any())
        return self.known

    def value(self, layer: int, name: str) -> Tensor | None:
        """``mean``, ``var``, ``count``, ``weight`` or ``bias`` of a layer; None if the table does not hold it."""
        return getattr(self, f"{name}_{layer}", None)

    def follow(self, step: int) -> None:
        """Note that training runs at the table's width in a step."""
        if self.version != step:
            self.version = step
            self.followings += 1

    def follows(self, step: int) -> bool:
        """Whether the statistics keep up with training, which is at ``step``.

        They must have taken part in it; those of a switch that is drawn now and then may miss as many as are usual.
        """
        if self.version is None:
            return False
        usual = self.version // self.followings if self.kind == "private" and self.followings else 0
        return step - self.version <= _PATIENCE * usual

    def describe(self, *, current: bool) -> dict[str, Any]:
        """What a checkpoint must say to rebuild the table."""
        return {"widths": self.widths.to_json(), "kind": self.kind, "ready": current}


def fixed_tensors(layers: Sequence[NormLayer]) -> set[str]:
    """Names, in a table, of gains and shifts that no training changes."""
    return {f"{name}_{i}" for i, layer in enumerate(layers) for name in layer.fixed}


def sliced_tensors(
    layers: Sequence[NormLayer], widths: Widths, maximum: Sequence[int], *, affine: bool
) -> dict[str, Tensor]:
    """Tensors of a table that starts from the layers' own full values: contiguous copies of their active entries."""
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate(layers):
        runs = layer.axis.active(widths.channels, maximum)
        full = layer.tensors(affine=affine)
        for name, tensor in full.items():
            tensors[f"{name}_{i}"] = torch.cat([tensor.detach().narrow(0, start, length) for start, length in runs])
        tensors[f"count_{i}"] = torch.zeros((), dtype=torch.long, device=full["mean"].device)
    return tensors


def blank_tensors(layers: Sequence[NormLayer], widths: Widths, like: Tensor, *, affine: bool) -> dict[str, Tensor]:
    """Tensors of a table that is about to be filled, by calibration or from a checkpoint: as a new batch norm's."""
    tensors: dict[str, Tensor] = {}
    with torch.inference_mode(False):  # training is to change them
        for i, layer in enumerate(layers):
            size = layer.axis.size(widths.channels)
            for name in ("mean", *(layer.affine if affine else ())):
                tensors[f"{name}_{i}"] = like.new_zeros(size)
            tensors[f"var_{i}"] = like.new_ones(size)
            tensors[f"count_{i}"] = torch.zeros((), dtype=torch.long, device=like.device)
    return tensors
