"""What networks learn: data, losses and metrics, each problem behind the protocol of ``slimmable.train.task``."""

from slimmable.tasks.classification import ClassificationTask
from slimmable.tasks.detection.settings import SceneSettings
from slimmable.tasks.detection.shapes import write_shapes
from slimmable.tasks.detection.task import DetectionTask
from slimmable.tasks.images.settings import ImageDataSettings
from slimmable.tasks.patches.settings import PatchDataSettings
from slimmable.tasks.reinforcement.settings import EnvironmentSettings, PpoSettings
from slimmable.tasks.reinforcement_learning import ReinforcementLearningTask
from slimmable.tasks.segmentation.settings import LabelMapSettings
from slimmable.tasks.segmentation.task import SegmentationTask
from slimmable.tasks.super_resolution import SuperResolutionTask

__all__ = [
    "ClassificationTask",
    "DetectionTask",
    "EnvironmentSettings",
    "ImageDataSettings",
    "LabelMapSettings",
    "PatchDataSettings",
    "PpoSettings",
    "ReinforcementLearningTask",
    "SceneSettings",
    "SegmentationTask",
    "SuperResolutionTask",
    "write_shapes",
]
