"""What networks learn: data, losses and metrics, each problem behind the protocol of ``slimmable.train.task``."""

from slimmable.tasks.classification import ClassificationTask
from slimmable.tasks.images.settings import ImageDataSettings

__all__ = ["ClassificationTask", "ImageDataSettings"]
