"""The papers' networks in plain PyTorch, and networks by name.

They know nothing of changing width: ``slimmable.convert`` slims them like anybody's.
"""

from slimmable.models.digits_cnn import digits_cnn
from slimmable.models.expansions import mobilenet_v2_expansions
from slimmable.models.mobilenet_v1 import mobilenet_v1, mobilenet_v1_cifar
from slimmable.models.resnet_cifar import resnet_cifar
from slimmable.models.zoo import MODELS, BuiltModel, ModelEntry, build_model

__all__ = [
    "MODELS",
    "BuiltModel",
    "ModelEntry",
    "build_model",
    "digits_cnn",
    "mobilenet_v1",
    "mobilenet_v1_cifar",
    "mobilenet_v2_expansions",
    "resnet_cifar",
]
