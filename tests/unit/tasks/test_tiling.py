"""Images in tiles are the images in one piece."""

from functools import partial

import pytest
import torch
from torch import nn

import slimmable
from slimmable.errors import RecipeError
from slimmable.models import wdsr, wdsr_expansions
from slimmable.tasks.tiling import reach_of, upscaled


@pytest.fixture(scope="module")
def net():
    """An elastic network in double precision: what is left of a difference is not rounding."""
    plain = wdsr(2, 0.25, blocks=2).eval()
    return slimmable.convert(plain, torch.rand(2, 3, 16, 16), min_ratio=0.5, follow=wdsr_expansions("A", 2)).double()


def image(height, width, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [(41, 70), (16, 90), (64, 17), (33, 33)], ids=str)
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_tiles_give_what_one_piece_gives(net, size, ratio):
    low = image(*size)
    with torch.no_grad(), net.at(net.space.uniform(ratio)):
        whole = net(low)
        found = upscaled(net, low, scale=2, tile=16, reach=reach_of(net, scale=2))

    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


def test_less_than_the_reach_is_too_little(net):
    low = image(40, 40)
    with torch.no_grad():
        found = upscaled(net, low, scale=2, tile=16, reach=0)
        assert (found - net(low)).abs().max() > 1e-6


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize(("variant", "each"), [("A", 2), ("B", 1)])
def test_the_reach_is_that_of_the_kernels(variant, each, blocks):
    net = wdsr(3, 0.25, variant=variant, blocks=blocks).eval()
    # The head and the tail have kernels of 3 pixels, and so have the convolutions of the blocks but those of one pixel.
    assert reach_of(net, scale=3) == 2 + each * blocks


def test_a_network_that_halves_its_maps_meets_the_same_grid():
    def halved(seed):
        torch.manual_seed(seed)
        narrow = partial(nn.Conv2d, kernel_size=3, padding=1)
        return nn.Sequential(
            narrow(3, 4), nn.MaxPool2d(2), narrow(4, 4), nn.AvgPool2d(2), narrow(4, 4), nn.Upsample(scale_factor=8)
        ).double()

    net, low = halved(0), image(48, 80)
    with torch.no_grad():
        reach = reach_of(net, scale=2)
        assert reach is not None
        torch.testing.assert_close(upscaled(net, low, scale=2, tile=24, reach=reach), net(low), rtol=0, atol=1e-12)


def test_what_looks_at_the_whole_image_is_not_cut():
    class Contrast(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, images):
            return (images - images.mean(dim=(2, 3), keepdim=True)) * self.gain

    net, low = Contrast(), image(40, 40)
    assert reach_of(net, scale=1) is None
    assert torch.equal(upscaled(net, low, scale=1, tile=16, reach=None), net(low))


@pytest.mark.parametrize("tile", [0, 4, 20])
def test_an_odd_tile_is_refused(net, tile):
    with pytest.raises(RecipeError, match=rf"the tile is {tile} pixels; expected a multiple of 8"):
        upscaled(net, image(8, 8), scale=2, tile=tile)
