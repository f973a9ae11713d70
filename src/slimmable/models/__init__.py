"""The papers' networks in plain PyTorch, and networks by name.

They know nothing of changing width: ``slimmable.convert`` slims them like anybody's.
"""

from slimmable.models.digits_cnn import digits_cnn
from slimmable.models.expansions import mobilenet_v2_expansions, mobilenet_v3_large_expansions, wdsr_expansions
from slimmable.models.mobilenet_v1 import mobilenet_v1, mobilenet_v1_cifar
from slimmable.models.mobilenet_v2 import mobilenet_v2
from slimmable.models.mobilenet_v3 import mobilenet_v3_large
from slimmable.models.resnet50 import resnet50
from slimmable.models.resnet_cifar import resnet_cifar
from slimmable.models.shufflenet_v1 import shufflenet_v1
from slimmable.models.wdsr import wdsr
from slimmable.models.zoo import MODELS, BuiltModel, ModelEntry, build_model

__all__ = [
    "MODELS",
    "BuiltModel",
    "ModelEntry",
    "build_model",
    "digits_cnn",
    "mobilenet_v1",
    "mobilenet_v1_cifar",
    "mobilenet_v2",
    "mobilenet_v2_expansions",
    "mobilenet_v3_large",
    "mobilenet_v3_large_expansions",
    "resnet50",
    "resnet_cifar",
    "shufflenet_v1",
    "wdsr",
    "wdsr_expansions",
]
