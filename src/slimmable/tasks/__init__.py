"""What networks learn: data, losses and metrics, each problem behind the protocol of ``slimmable.train.task``."""

from slimmable.tasks.classification import ClassificationTask
from slimmable.tasks.images.settings import ImageDataSettings
from slimmable.tasks.patches.settings import PatchDataSettings
from slimmable.tasks.super_resolution import SuperResolutionTask

__all__ = ["ClassificationTask", "ImageDataSettings", "PatchDataSettings", "SuperResolutionTask"]
