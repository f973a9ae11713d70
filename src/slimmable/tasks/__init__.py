"""What networks learn: data, losses and metrics, each problem behind the protocol of ``slimmable.train.task``."""

from slimmable.tasks.classification import ClassificationTask
from slimmable.tasks.images.settings import ImageDataSettings
from slimmable.tasks.patches.settings import PatchDataSettings
from slimmable.tasks.reinforcement.settings import EnvironmentSettings, PpoSettings
from slimmable.tasks.reinforcement_learning import ReinforcementLearningTask
from slimmable.tasks.super_resolution import SuperResolutionTask

__all__ = [
    "ClassificationTask",
    "EnvironmentSettings",
    "ImageDataSettings",
    "PatchDataSettings",
    "PpoSettings",
    "ReinforcementLearningTask",
    "SuperResolutionTask",
]
