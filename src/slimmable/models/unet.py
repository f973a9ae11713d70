"""A U-Net for dense prediction: what a segmentation network of a user's own looks like."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (32, 64, 128, 256)


class UNet(nn.Module):
    """Encoder, decoder, and at every resolution a copy of the encoder's features beside the decoder's [1].

    Convolutions are padded, so that the output has the size of the input; batch norm follows each of them.

    Args:
        in_channels: Channels of the images.
        num_classes: Channels of the output.
        channels: Channels at each resolution, the finest first; each is half as fine as the one before.

    References:
        [1] Ronneberger, Fischer, Brox. U-Net: Convolutional Networks for Biomedical Image Segmentation. MICCAI 2015.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 21, channels: tuple[int, ...] = CHANNELS) -> None:
        super().__init__()
        pairs = list(pairwise(channels))
        self.encoder = nn.ModuleList([_block(in_channels, channels[0]), *(_block(*pair) for pair in pairs)])
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for here, below in reversed(pairs))
        self.decoder = nn.ModuleList(_block(2 * here, here) for here, _ in reversed(pairs))
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel, ``(N, num_classes, H, W)``; ``H`` and ``W`` are multiples of 8 by default."""
        features = [self.encoder[0](x)]
        for block in list(self.encoder)[1:]:
            features.append(block(functional.max_pool2d(features[-1], 2)))
        x = features.pop()
        for up, block in zip(self.up, self.decoder, strict=True):
            x = block(torch.cat([features.pop(), up(x)], dim=1))
        return self.head(x)


def unet() -> tuple[UNet, tuple[int, int, int]]:
    """A U-Net of four resolutions for 21 classes, and the size of one input.

    >>> model, size = unet()
    >>> model(torch.zeros(1, *size)).shape
    torch.Size([1, 21, 128, 128])
    """
    return UNet(), (3, 128, 128)


def _block(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )
