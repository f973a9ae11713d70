"""Small networks whose layers depend on width groups in different ways."""

import torch
from torch import Tensor, nn

import slimmable
from slimmable import SlimmableModel
from slimmable.models import build_model


class Joined(nn.Module):
    """A concatenation of two groups, read by a layer; a gate; a depthwise layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 24, 1)
        self.both = nn.Conv2d(40, 32, 1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.squeeze, self.excite = nn.Linear(32, 16), nn.Linear(16, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.both(torch.cat([self.left(x), self.right(x)], 1))).relu()
        x = self.deep(self.deep(x))
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return self.head((x * gate[:, :, None, None]).mean((2, 3)))


class Attending(nn.Module):
    """Attention, whose products are of tensors, not of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(8, 32), nn.MultiheadAttention(32, 4), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.mix(x, x, x, need_weights=False)[0])


def joined() -> SlimmableModel:
    return slimmable.convert(Joined().eval(), torch.randn(2, 3, 8, 8), divisor=4)


def attending() -> SlimmableModel:
    return slimmable.convert(Attending().eval(), torch.randn(2, 6, 8))


def digits() -> SlimmableModel:
    return slimmable.convert(build_model("digits_cnn").model.eval(), torch.randn(2, 1, 8, 8))


NETWORKS = {"joined": joined, "attending": attending, "digits": digits}
