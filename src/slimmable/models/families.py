"""Networks that people have, by family: the list that ``slimmable inspect --all`` converts.

Of each family it holds the smallest member, or the one its users name first. Names are those that
:func:`~slimmable.models.build_model` takes.
"""

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

from slimmable.errors import RecipeError
from slimmable.models.zoo import InputSize

_OURS = "slimmable.models"

FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "AlexNet": ("torchvision:alexnet",),
        "BEiT": ("timm:beit_base_patch16_224",),
        "CaiT": ("timm:cait_xxs24_224",),
        "CoaT": ("timm:coat_lite_tiny",),
        "CoAtNet": ("timm:coatnet_0_rw_224",),
        "ConvMixer": ("timm:convmixer_768_32",),
        "ConvNeXt": (
            "torchvision:convnext_tiny",
            "timm:convnext_atto",
            "timm:convnextv2_atto",
            "transformers:ConvNextForImageClassification",
        ),
        "CrossViT": ("timm:crossvit_9_240",),
        "CSPNet": ("timm:cspdarknet53", "timm:cs3darknet_s"),
        "CvT": ("transformers:CvtForImageClassification",),
        "DarkNet": ("timm:darknet21",),
        "DaViT": ("timm:davit_tiny",),
        "DeiT": ("timm:deit_tiny_distilled_patch16_224", "timm:deit3_small_patch16_224"),
        "DenseNet": ("torchvision:densenet121",),
        "DINOv2": ("transformers:Dinov2ForImageClassification",),
        "DLA": ("timm:dla34",),
        "DPN": ("timm:dpn48b", "timm:dpn68"),
        "ECA-Net": ("timm:ecaresnet50t", "timm:eca_vovnet39b"),
        "EdgeNeXt": ("timm:edgenext_small", "timm:edgenext_xx_small"),
        "EfficientFormer": ("timm:efficientformer_l1", "timm:efficientformerv2_s0"),
        "EfficientNet": (
            "torchvision:efficientnet_b0",
            "torchvision:efficientnet_v2_s",
            "timm:efficientnet_lite0",
            "timm:tinynet_e",
            "timm:mixnet_s",
        ),
        "EfficientViT": ("timm:efficientvit_b0", "timm:efficientvit_m0"),
        "EVA": ("timm:eva02_tiny_patch14_224",),
        "FasterNet": ("timm:fasternet_t0",),
        "FastViT": ("timm:fastvit_t8",),
        "FBNet": ("timm:fbnetc_100", "timm:fbnetv3_b"),
        "Feature pyramid": (
            f"{_OURS}.detectors:resnet18_fpn",
            f"{_OURS}.detectors:mobilenet_v3_large_fpn",
        ),
        "FocalNet": ("timm:focalnet_tiny_srf",),
        "GC ViT": ("timm:gcvit_xxtiny",),
        "GENet": ("timm:gernet_s",),
        "GhostNet": ("timm:ghostnet_100", "timm:ghostnetv2_100", "timm:ghostnetv3_050", "timm:repghostnet_050"),
        "GoogLeNet": ("torchvision:googlenet",),
        "HardCoRe-NAS": ("timm:hardcorenas_a",),
        "HGNet": ("timm:hgnetv2_b0",),
        "Hiera": ("timm:hiera_tiny_224",),
        "HRNet": ("timm:hrnet_w18_small",),
        "Inception": ("torchvision:inception_v3", "timm:inception_v4", "timm:inception_resnet_v2"),
        "InceptionNeXt": ("timm:inception_next_atto",),
        "LCNet": ("timm:lcnet_035",),
        "LeViT": ("timm:levit_128s",),
        "MambaOut": ("timm:mambaout_femto",),
        "MaxViT": ("torchvision:maxvit_t", "timm:maxvit_pico_rw_256"),
        "MetaFormer": ("timm:poolformer_s12", "timm:poolformerv2_s12", "timm:convformer_s18", "timm:caformer_s18"),
        "MLP-Mixer": ("timm:mixer_s32_224", "timm:gmlp_ti16_224", "timm:resmlp_12_224"),
        "MNASNet": ("torchvision:mnasnet1_0", "timm:semnasnet_050", "timm:spnasnet_100"),
        "MobileNet": (
            "slimmable:mobilenet_v1",
            "torchvision:mobilenet_v2",
            "torchvision:mobilenet_v3_large",
            "torchvision:mobilenet_v3_small",
            "timm:mobilenetv3_small_050",
            "timm:mobilenetv4_conv_small",
        ),
        "MobileOne": ("timm:mobileone_s0",),
        "MobileViT": ("timm:mobilevit_xs", "timm:mobilevitv2_050"),
        "NesT": ("timm:nest_tiny",),
        "NFNet": ("timm:nfnet_f0", "timm:dm_nfnet_f0"),
        "Object detection": tuple(
            f"{_OURS}.detectors:{name}" for name in ("faster_rcnn", "fcos", "retinanet", "ssd", "ssdlite")
        ),
        "PiT": ("timm:pit_ti_224",),
        "PVT": ("timm:pvt_v2_b0",),
        "RegNet": ("torchvision:regnet_x_400mf", "torchvision:regnet_y_400mf", "timm:regnetz_040"),
        "RepVGG": ("timm:repvgg_a0",),
        "RepViT": ("timm:repvit_m0_9",),
        "Res2Net": ("timm:res2net50_26w_4s",),
        "ResNeSt": ("timm:resnest14d",),
        "ResNet": (
            "torchvision:resnet18",
            "torchvision:resnet50",
            "torchvision:wide_resnet50_2",
            "timm:resnet50d",
            "timm:resnetv2_18",
        ),
        "ResNeXt": ("torchvision:resnext50_32x4d",),
        "ReXNet": ("timm:rexnet_100",),
        "Segmentation": (
            "torchvision:deeplabv3_mobilenet_v3_large",
            "torchvision:fcn_resnet50",
            "torchvision:lraspp_mobilenet_v3_large",
            "transformers:SegformerForSemanticSegmentation",
        ),
        "SelecSLS": ("timm:selecsls42b",),
        "SENet": ("timm:seresnet50", "timm:legacy_seresnet18"),
        "ShuffleNet": ("slimmable:shufflenet_v1", "torchvision:shufflenet_v2_x1_0"),
        "SKNet": ("timm:skresnet18",),
        "SqueezeNet": ("torchvision:squeezenet1_1",),
        "StarNet": ("timm:starnet_s050",),
        "Super-resolution": ("slimmable:wdsr_a_x2",),
        "SwiftFormer": ("timm:swiftformer_xs",),
        "Swin": ("torchvision:swin_t", "torchvision:swin_v2_t", "transformers:SwinForImageClassification"),
        "TinyViT": ("timm:tiny_vit_5m_224",),
        "TResNet": ("timm:tresnet_m",),
        "Twins": ("timm:twins_svt_small",),
        "U-Net": (f"{_OURS}.unet:unet",),
        "VGG": ("torchvision:vgg11_bn",),
        "Video": ("torchvision:r3d_18", "torchvision:r2plus1d_18", "torchvision:swin3d_t"),
        "Visformer": ("timm:visformer_tiny",),
        "ViT": (
            "torchvision:vit_b_16",
            "timm:vit_tiny_patch16_224",
            "transformers:ViTForImageClassification",
        ),
        "VoVNet": ("timm:ese_vovnet19b_slim_dw",),
        "Xception": ("timm:xception41",),
        "XCiT": ("timm:xcit_nano_12_p16_224",),
    }
)
"""Models of every family."""

INPUT_SIZES: Mapping[str, InputSize] = MappingProxyType(
    {
        "torchvision:deeplabv3_mobilenet_v3_large": (3, 128, 128),
        "torchvision:fcn_resnet50": (3, 128, 128),
        "torchvision:lraspp_mobilenet_v3_large": (3, 128, 128),
        "torchvision:r2plus1d_18": (3, 8, 112, 112),
        "torchvision:r3d_18": (3, 8, 112, 112),
        "torchvision:swin3d_t": (3, 8, 112, 112),
    }
)
"""Sizes of one input where the network's own would take minutes and show nothing else."""


class ZooModel(NamedTuple):
    """A network of the list; ``input_size`` is None where its own is taken."""

    family: str
    name: str
    input_size: InputSize | None

    @property
    def package(self) -> str:
        """Whose it is: the name of an installed package, or of one that is not."""
        return self.name.partition(":")[0].partition(".")[0]


def zoo(patterns: Sequence[str] = ()) -> tuple[ZooModel, ...]:
    """The networks of the list, by family; those that any of ``patterns`` matches, if there are some.

    A pattern is matched against the family and the name, with and without its origin.

    Raises:
        RecipeError: A pattern matches nothing.

    >>> [model.name for model in zoo(["vit_tiny*", "MaxViT"])]
    ['torchvision:maxvit_t', 'timm:maxvit_pico_rw_256', 'timm:vit_tiny_patch16_224']
    """
    models = [ZooModel(family, name, INPUT_SIZES.get(name)) for family, names in FAMILIES.items() for name in names]
    chosen: set[ZooModel] = set()
    for pattern in patterns:
        matched = {model for model in models if _matches(model, pattern)}
        if not matched:
            near = difflib.get_close_matches(pattern, [*FAMILIES, *(_bare(model) for model in models)], cutoff=0.4)
            raise RecipeError(
                f"{pattern!r} matches none of the {len(models)} networks; expected a pattern such as 'resnet*', or a "
                f"family. Nearest names: {', '.join(near) or ', '.join([*FAMILIES][:3])}."
            )
        chosen |= matched
    return tuple(model for model in models if model in chosen or not patterns)


def _matches(model: ZooModel, pattern: str) -> bool:
    names = (model.family, model.name, _bare(model))
    return any(fnmatchcase(name.lower(), pattern.strip().lower()) for name in names)


def _bare(model: ZooModel) -> str:
    return model.name.rpartition(":")[2]
