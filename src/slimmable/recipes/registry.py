"""Recipes by name."""

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from slimmable.errors import RecipeError
from slimmable.recipes import (
    cifar,
    detection,
    digits,
    imagenet,
    reinforcement_learning,
    segmentation,
    super_resolution,
)
from slimmable.recipes.config import Recipe

RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType(
    {
        "digits/us-net": digits.us_net,
        "digits/us-net-nonuniform": digits.us_net_nonuniform,
        "digits/s-net": digits.s_net,
        "digits/independent": digits.independent,
        "digits/naive": digits.naive,
        "digits/pareco": digits.pareco,
        "digits/ows": digits.ows,
        "classification/smoke": digits.smoke,
        "cifar10/us-net": cifar.us_net,
        "cifar10/s-net": cifar.s_net,
        "cifar10/two-stage": cifar.two_stage,
        "cifar10/pareco": cifar.pareco,
        "cifar100/ows-mobilenet-v1": cifar.ows_mobilenet_v1,
        "cifar100/aows-mobilenet-v1": cifar.aows_mobilenet_v1,
        "cifar100/s-net-mobilenet-v1": cifar.s_net_mobilenet_v1,
        "cifar100/us-net-mobilenet-v1": cifar.us_net_mobilenet_v1,
        "imagenet/s-net-mobilenet-v1": imagenet.s_net_mobilenet_v1,
        "imagenet/s-net-mobilenet-v2": imagenet.s_net_mobilenet_v2,
        "imagenet/s-net-resnet50": imagenet.s_net_resnet50,
        "imagenet/us-net-mobilenet-v1": imagenet.us_net_mobilenet_v1,
        "imagenet/us-net-mobilenet-v2": imagenet.us_net_mobilenet_v2,
        "reinforcement-learning/smoke": reinforcement_learning.smoke,
        "reinforcement-learning/cartpole": reinforcement_learning.cartpole,
        "reinforcement-learning/acrobot": reinforcement_learning.acrobot,
        "reinforcement-learning/lunar-lander": reinforcement_learning.lunar_lander,
        "reinforcement-learning/breakout": reinforcement_learning.breakout,
        "super-resolution/smoke": super_resolution.smoke,
        "super-resolution/photos": super_resolution.photos,
        "super-resolution/wdsr-x2-32": super_resolution.wdsr_x2_32,
        "super-resolution/wdsr-x2-64": super_resolution.wdsr_x2_64,
        "super-resolution/wdsr-x4-32": super_resolution.wdsr_x4_32,
        "super-resolution/wdsr-x4-64": super_resolution.wdsr_x4_64,
        "detection/smoke": detection.detection_smoke,
        "detection/shapes": detection.detection_shapes,
        "detection/coco-faster-rcnn": detection.coco_faster_rcnn,
        "detection/coco-retinanet": detection.coco_retinanet,
        "detection/coco-fcos": detection.coco_fcos,
        "instance-segmentation/smoke": detection.masks_smoke,
        "instance-segmentation/shapes": detection.masks_shapes,
        "instance-segmentation/coco-mask-rcnn": detection.coco_mask_rcnn,
        "keypoints/smoke": detection.keypoints_smoke,
        "keypoints/shapes": detection.keypoints_shapes,
        "keypoints/coco-keypoint-rcnn": detection.coco_keypoint_rcnn,
        "segmentation/smoke": segmentation.smoke,
        "segmentation/shapes": segmentation.shapes,
        "segmentation/voc-deeplabv3": segmentation.voc_deeplabv3,
        "segmentation/voc-lraspp": segmentation.voc_lraspp,
    }
)
"""Functions that return complete configurations, by the name the command line takes."""


def recipe(name: str) -> Recipe:
    """The recipe called ``name``.

    Raises:
        RecipeError: There is none; the nearest names are given.

    >>> recipe("digits/us-net").task.network.name
    'digits_cnn'
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4)
        raise RecipeError(
            f"there is no recipe {name!r}; expected a .yaml file or one of {', '.join(near or RECIPES)}"
            + (" (all names: slimmable recipes)" if near else "")
        )
    return RECIPES[name]()
