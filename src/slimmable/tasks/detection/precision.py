"""Average precision of boxes, masks and keypoints, as COCO defines it."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from slimmable.errors import MissingDependencyError
from slimmable.tasks.detection.batches import SceneBatch
from slimmable.tasks.detection.scenes import POINTS, Target

Judged = Literal["boxes", "masks", "keypoints"]

_KINDS: dict[Judged, tuple[str, str]] = {
    "boxes": ("bbox", ""),
    "masks": ("segm", "mask_"),
    "keypoints": ("keypoints", "keypoint_"),
}
SPREAD = 0.067
"""Of keypoints for which COCO has no number; the mean of its numbers for people."""


class AveragePrecision:
    r"""Mean average precision over classes, of boxes and of what else is judged.

    Found objects of an image and class, best score first, are matched with those annotated, each to the one left that
    it overlaps most, at least by a threshold. Over all images the precision at recall :math:`r` is the best at any
    recall from :math:`r` on, and its mean over :math:`r = 0, 0.01, \dots, 1` is the average precision. ``compute``
    gives ``ap``, the mean over thresholds 0.5, 0.55, ..., 0.95, and ``ap50`` at 0.5; ``mask_ap`` and ``mask_ap50``
    where masks are compared, ``keypoint_ap`` and ``keypoint_ap50`` where keypoints are, by

    .. math:: \frac{1}{|V|} \sum_{i \in V} \exp \frac{-d_i^2}{2 a (2 \sigma_i)^2}

    over the visible ones :math:`V`, with distance :math:`d_i`, area :math:`a` of the object and spread
    :math:`\sigma_i`: COCO's for its 17 keypoints of people, 0.067 for others. Crowds are passed over. 100 objects of an
    image count, 20 where keypoints are compared. ``loss``, which searches minimise, is one less the last of ``ap``,
    ``mask_ap`` and ``keypoint_ap`` that there is.

    Args:
        judged: What is compared besides boxes: ``masks``, ``keypoints`` or nothing.
        keypoints: How many an object has.

    Raises:
        MissingDependencyError: faster-coco-eval is not installed.

    References:
        Lin et al. Microsoft COCO: Common Objects in Context. ECCV 2014; https://cocodataset.org, detection evaluation.

    >>> metric = AveragePrecision()
    >>> box = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([1])}
    >>> truth = {**box, "area": torch.tensor([100.0]), "iscrowd": torch.tensor([0])}
    >>> metric.update([{**box, "scores": torch.tensor([0.9])}], SceneBatch([torch.zeros(3, 16, 16)], [truth]))
    >>> metric.compute()
    {'ap': 1.0, 'ap50': 1.0, 'loss': 0.0}
    """

    def __init__(self, *judged: Judged, keypoints: int = POINTS) -> None:
        self._judged: tuple[Judged, ...] = ("boxes", *judged)
        self._keypoints = keypoints
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def update(self, outputs: Sequence[Target], batch: SceneBatch) -> None:
        """Take in what was found on the images of one batch."""
        for image, found, truth in zip(batch.images, outputs, batch.targets, strict=True):
            number = len(self._images) + 1
            self._images.append({"id": number, "height": image.shape[1], "width": image.shape[2]})
            for entry in self._entries(truth, number):
                self._truth.append({"id": len(self._truth) + 1, **entry})
            self._found += self._entries(found, number)

    def compute(self) -> dict[str, float]:
        """Every figure by name; nan where nothing is annotated."""
        figures: dict[str, float] = {}
        for judged in self._judged:
            kind, prefix = _KINDS[judged]
            precisions = self._precisions(kind)
            for name, chosen in (("ap", precisions), ("ap50", precisions[:1])):
                known = chosen[chosen > -1]
                figures[f"{prefix}{name}"] = float(known.mean()) if known.size else float("nan")
        return {**figures, "loss": 1 - figures[f"{_KINDS[self._judged[-1]][1]}ap"]}

    def _entries(self, objects: Target, image: int) -> list[dict[str, Any]]:
        """Objects of an image as COCO's format has them."""
        left_top, right_bottom = objects["boxes"][:, :2], objects["boxes"][:, 2:]
        columns: dict[str, list[Any]] = {
            "bbox": torch.cat([left_top, right_bottom - left_top], 1).tolist(),
            "category_id": objects["labels"].tolist(),
        }
        if "scores" in objects:
            columns["score"] = objects["scores"].tolist()
        else:
            columns |= {"area": objects["area"].tolist(), "iscrowd": objects["iscrowd"].tolist()}
        if "masks" in self._judged:
            columns["segmentation"] = _coded(objects["masks"])
        if "keypoints" in self._judged:
            columns["keypoints"] = objects["keypoints"].flatten(1).tolist()
            if "scores" not in objects:
                columns["num_keypoints"] = (objects["keypoints"][..., 2] > 0).sum(1).tolist()
        rows = zip(*columns.values(), strict=True)
        return [{"image_id": image, **dict(zip(columns, row, strict=True))} for row in rows]

    def _precisions(self, kind: str) -> np.ndarray:
        """Precision by threshold, recall and class, -1 where a class has no object."""
        try:
            from faster_coco_eval import COCO
            from faster_coco_eval.core.faster_eval_api import COCOeval_faster
        except ImportError as error:
            raise MissingDependencyError(
                "average precision needs faster-coco-eval, which is not installed: pip install 'slimmable[detection]'"
            ) from error
        if not self._truth:
            return np.full((1, 1, 1), -1.0)
        labels = sorted({each["category_id"] for each in self._truth})
        truth = COCO()
        truth.dataset = {
            "images": self._images,
            "categories": [{"id": label, "name": str(label)} for label in labels],
            "annotations": [dict(each) for each in self._truth],
        }
        truth.createIndex()
        known = [dict(each) for each in self._found if each["category_id"] in labels]
        if kind == "keypoints":
            for each in known:
                del each["bbox"]
        other = self._keypoints != POINTS
        judge = COCOeval_faster(
            truth,
            truth.loadRes(known),
            kind,  # pyright: ignore[reportArgumentType]
            kpt_oks_sigmas=[SPREAD] * self._keypoints if other else None,
        )
        judge.evaluate()
        judge.accumulate()
        return np.asarray(judge.eval["precision"])[:, :, :, 0, -1]


def _coded(masks: Tensor) -> list[dict[str, Any]]:
    """Masks ``(N, H, W)``, or probabilities ``(N, 1, H, W)``, as run lengths."""
    from faster_coco_eval.core import mask

    inside = (masks.flatten(0, 1) if masks.ndim == 4 else masks) >= (0.5 if masks.is_floating_point() else 1)
    return [mask.encode(np.asfortranarray(each.to(torch.uint8).cpu().numpy())) for each in inside]
