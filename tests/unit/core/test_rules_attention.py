"""Attention slims by whole heads: query, key, value and projection of a head stay or go together."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimmable
from tests.unit.core.oracle import Case, assert_slims, segments

WIDTH = 4
"""Channels of a head."""

TOKENS = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


class Embedded(nn.Module):
    """An attention layer on tokens of some channels, with a residual sum around it."""

    def __init__(self, attention: nn.Module, channels: int) -> None:
        super().__init__()
        self.embed, self.attention, self.head = nn.Linear(6, channels), attention, nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.attention(x))


class Packed(nn.Module):
    """One layer for queries, keys and values; the code keeps the number of heads and their width."""

    def __init__(self, channels: int, heads: int, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, WIDTH, heads * WIDTH
        self.qkv, self.proj, self.attend = (
            nn.Linear(channels, 3 * self.attn_dim),
            nn.Linear(self.attn_dim, channels),
            attend,
        )

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(n, length, self.attn_dim))


class Apart(nn.Module):
    """Layers of their own; a head's width is computed from the channels that come in, so these follow the heads."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads, self.scale = channels // WIDTH, WIDTH**-0.5
        self.q, self.k, self.v, self.back = (nn.Linear(channels, channels) for _ in range(4))
        self.table = nn.Parameter(torch.zeros(9, self.heads))
        self.register_buffer("place", torch.arange(5)[:, None] - torch.arange(5) + 4)

    def forward(self, x: Tensor) -> Tensor:
        n, length, channels = x.shape
        q, k, v = (
            part(x).view(n, length, self.heads, channels // self.heads).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        scores = (q * self.scale) @ k.transpose(-2, -1) + self.table[self.place.view(-1)].view(5, 5, -1).permute(
            2, 0, 1
        )
        return self.back((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, channels))


class Shared(nn.Module):
    """Every two heads of the queries share a key and a value."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.shared = heads, heads // 2
        self.q, self.kv = nn.Linear(channels, heads * WIDTH), nn.Linear(channels, heads * WIDTH)
        self.back = nn.Linear(heads * WIDTH, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q = self.q(x).view(n, length, self.heads, WIDTH).transpose(1, 2)
        k, v = self.kv(x).view(n, length, 2, self.shared, WIDTH).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.back(y.transpose(1, 2).reshape(n, length, -1))


class Whole(nn.Module):
    """PyTorch's own attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(channels, channels // WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x)[0]


class Covariance(nn.Module):
    """Attention between the channels of a head, over tokens (XCiT)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // WIDTH
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        self.qkv, self.back = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, length, channels = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, channels // self.heads).permute(2, 0, 3, 4, 1)
        q, k, v = F.normalize(qkv[0], dim=-1), F.normalize(qkv[1], dim=-1), qkv[2]
        y = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1) @ v
        return self.back(y.permute(0, 3, 1, 2).reshape(n, length, channels))


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * WIDTH**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v


def by_letters(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid,bhjd->bhij", q, k * WIDTH**-0.5).softmax(-1)
    return torch.einsum("bhij, b h j d -> bhid", scores, v)


def packed_keep(full, narrow):
    rows = segments(*[(narrow[1] // 3, full[1] // 3)] * 3)
    return {f"attention.qkv.{kind}": {0: rows} for kind in ("weight", "bias")}


def shared_keep(full, narrow):
    rows = segments(*[(narrow[1] // 2, full[1] // 2)] * 2)
    return {f"attention.kv.{kind}": {0: rows} for kind in ("weight", "bias")}


def packed(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Case:
    """Heads and channels vary apart."""
    return Case(
        build=lambda channels, rows: Embedded(Packed(channels, rows // (3 * WIDTH), attend), channels),
        full=(16, 48),
        narrow=((16, 12), (5, 36), (4, 48)),
        inputs=(TOKENS,),
        keep=packed_keep,
    )


def in_whole_heads(build: Callable[[int], nn.Module], packed_layer: str) -> Case:
    """Channels vary by heads."""
    return Case(
        build=lambda channels: Embedded(build(channels), channels),
        full=(16,),
        narrow=((4,), (12,)),
        inputs=(TOKENS,),
        keep=lambda full, narrow: {
            f"attention.{packed_layer}{kind}": {0: segments(*[(narrow[0], full[0])] * 3)}
            for kind in ("weight", "bias")
            if packed_layer
        },
    )


CASES = {
    "fused": packed(F.scaled_dot_product_attention),
    "matrix products": packed(by_hand),
    "einsum": packed(by_letters),
    "layers apart, relative positions": in_whole_heads(Apart, ""),
    "torch.nn": in_whole_heads(Whole, "layer.in_proj_"),
    "cross-covariance": in_whole_heads(Covariance, "qkv."),
    "shared keys": Case(
        build=lambda channels, rows: Embedded(Shared(channels, rows // WIDTH), channels),
        full=(12, 16),
        narrow=((12, 8), (5, 16)),
        inputs=(TOKENS,),
        keep=shared_keep,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_attention_slims_by_heads_to_the_one_built_narrow(case):
    assert_slims(case)


def test_an_encoder_layer_of_pytorch_slims_to_the_one_built_narrow():
    def build(channels: int, hidden: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(channels, channels // WIDTH, hidden, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.Linear(6, channels), layer, nn.Linear(channels, 2))

    def keep(full, narrow):
        rows = segments(*[(narrow[0], full[0])] * 3)
        return {f"1.self_attn.in_proj_{kind}": {0: rows} for kind in ("weight", "bias")}

    assert_slims(Case(build=build, full=(16, 32), narrow=((4, 32), (12, 9)), inputs=(TOKENS,), keep=keep))


def test_heads_are_steps_of_a_group():
    net = slimmable.convert(Embedded(Packed(16, 4, by_hand), 16).eval(), TOKENS, divisor=1)
    assert net.space["attention.qkv"].choices == (12, 24, 36, 48)
