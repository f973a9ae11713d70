"""Super-resolution: images made larger."""

import copy
from collections.abc import Callable
from typing import Literal, Self
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimmable.errors import DataError, RecipeError
from slimmable.models.upscalers import Scale, build_upscaler
from slimmable.tasks.fidelity import WINDOW, FidelityMetric
from slimmable.tasks.first_inputs import FirstInputs
from slimmable.tasks.images.splits import seeded_generator
from slimmable.tasks.patches.batches import PatchBatch, PatchBatches, WholeImages
from slimmable.tasks.patches.pipeline import PatchPipeline
from slimmable.tasks.patches.settings import PatchDataSettings
from slimmable.tasks.tiling import TILE, reach_of, upscaled

PixelLoss = Literal["l1", "l2"]

EXAMPLE = (3, 48, 48)
"""Size of the example, at which US-Net's paper counts: multiply-accumulates of a table are those of such an input."""

_LOSSES: dict[PixelLoss, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "l2": F.mse_loss}


class SuperResolutionTask:
    """Small images, the large ones they came from, the error of pixels, PSNR.

    Implements :class:`slimmable.train.task.Task`. Training is on patches; whole images are evaluated, one at a time, in
    tiles where they are large. Images are read when the first batch is asked for.

    Args:
        data: Which images, and how they are fed; photographs that ship with two packages unless said otherwise.
        scale: How many times larger.
        network: Name of the network as :func:`slimmable.models.upscalers.build_upscaler` takes it, or a function that
            returns a new one for images with values between 0 and 1.
        width: Multiplier of every channel count, for networks built at several.
        blocks: Number of blocks of a WDSR.
        loss: Mean absolute (``l1``) or squared (``l2``) error against the large images.
        distillation_loss: The same against the widest network's prediction.

    Raises:
        RecipeError: An option is out of its range, or does not go with a function as ``network``.

    References:
        Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, sections 4.2 and 5.1.

    >>> task = SuperResolutionTask(PatchDataSettings(batch_size=2), scale=4, width=0.25, blocks=1)
    >>> batch = next(iter(task.train_batches(task.model(), epoch=0, seed=0)))
    >>> batch.low.shape, batch.high.shape, task.loss(task.forward(task.model(), batch), batch).shape
    (torch.Size([2, 3, 48, 48]), torch.Size([2, 3, 192, 192]), torch.Size([]))
    """

    name = "super-resolution"
    metric = "psnr_y"
    higher_is_better = True

    def __init__(
        self,
        data: PatchDataSettings | None = None,
        *,
        scale: Scale = 2,
        network: str | Callable[[], nn.Module] = "wdsr_a",
        width: float | None = None,
        blocks: int | None = None,
        loss: PixelLoss = "l1",
        distillation_loss: PixelLoss = "l1",
    ) -> None:
        if scale not in (2, 3, 4):
            raise RecipeError(f"scale is {scale}; expected 2, 3 or 4")
        for key, value in (("loss", loss), ("distillation_loss", distillation_loss)):
            if value not in _LOSSES:
                raise RecipeError(f"{key} is {value!r}; expected l1 or l2")
        if not isinstance(network, str) and (width is not None or blocks is not None):
            raise RecipeError("width and blocks go with a network's name; a function decides them itself.")
        self.pipeline = PatchPipeline(data or PatchDataSettings(), scale=scale, least_side=WINDOW + 2 * scale)
        self.scale: Scale = scale
        self.device = torch.device("cpu")
        self._network = network
        self._width = width
        self._blocks = blocks
        self._loss = _LOSSES[loss]
        self._distillation_loss = _LOSSES[distillation_loss]
        self._reach: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()

    def model(self) -> nn.Module:
        """A new, plain network."""
        if not isinstance(self._network, str):
            return self._network()
        return build_upscaler(self._network, scale=self.scale, width=self._width, blocks=self._blocks)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two images of noise, 48 pixels a side."""
        return (torch.rand((2, *EXAMPLE), generator=seeded_generator(0)).to(self.device),)

    def train_batches(self, net: nn.Module, *, epoch: int, seed: int) -> PatchBatches:
        """Patches of random places and orientations; ``net`` is not looked at."""
        return self.pipeline.train_batches(epoch=epoch, seed=seed, device=self.device)

    def validation_batches(self) -> WholeImages:
        """Whole images for choosing anything; never the test images."""
        return self.pipeline.whole_images("validation", device=self.device)

    def test_batches(self) -> WholeImages:
        """Whole images of the final figure."""
        return self.pipeline.whole_images("test", device=self.device)

    def calibration_batches(self, *, samples: int, seed: int) -> FirstInputs:
        """Up to ``samples`` small patches of training images."""
        return self.pipeline.calibration_batches(samples=samples, seed=seed, device=self.device)

    def forward(self, net: nn.Module, batch: PatchBatch) -> Tensor:
        """Images ``(B, 3, scale H, scale W)``; in evaluation large ones in tiles.

        Raises:
            DataError: The network returns something else.
        """
        outputs = net(batch.low) if net.training else self.upscale(net, batch.low)
        if not isinstance(outputs, Tensor) or outputs.shape != batch.high.shape:
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise DataError(
                f"the network returned {found} for images of shape {tuple(batch.low.shape)}; expected images "
                f"{self.scale} times larger, of shape {tuple(batch.high.shape)}. Give it the scale of the task."
            )
        return outputs

    def upscale(self, net: nn.Module, images_BCHW: Tensor, *, tile: int = TILE) -> Tensor:
        """Images of any size made larger, in tiles if they are larger than one; see :func:`slimmable.tasks.tiling`.

        Args:
            net: A network in evaluation mode, at the widths it is to have.
            images_BCHW: Values between 0 and 1.
            tile: Side of a tile in pixels of the input.

        Raises:
            RecipeError: ``tile`` is no multiple of 8.
        """
        reach = None
        if max(images_BCHW.shape[2:]) > tile:
            if net not in self._reach:
                self._reach[net] = reach_of(net, scale=self.scale)
            reach = self._reach[net]
        return upscaled(net, images_BCHW, scale=self.scale, tile=tile, reach=reach)

    def loss(self, outputs: Tensor, batch: PatchBatch) -> Tensor:
        """Error against the large images, mean over pixels, colours and batch."""
        return self._loss(outputs, batch.high)

    def distillation_loss(self, outputs: Tensor, target: Tensor, batch: PatchBatch) -> Tensor:
        """Error against the widest network's prediction, mean over pixels, colours and batch."""
        return self._distillation_loss(outputs, target.detach())

    def metrics(self) -> FidelityMetric:
        """A new, empty metric."""
        return FidelityMetric(self.scale)

    def to(self, device: torch.device) -> Self:
        """This task with its batches on ``device``; the images are shared."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved
