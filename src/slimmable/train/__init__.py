"""How shared weights learn: one loop, one step, and samplers that choose the widths."""

from slimmable.train.checkpoint import load_trained
from slimmable.train.ema import MovingAverage
from slimmable.train.loop import fit
from slimmable.train.observers import Observer
from slimmable.train.optim import AdamW, Sgd, Timm, parameter_groups
from slimmable.train.samplers import DrawnSwitches, Fixed, Sandwich, SwitchList, WidthSampler
from slimmable.train.schedules import Constant, Cosine, Exponential, LearningRate, Linear, Step
from slimmable.train.settings import TrainSettings
from slimmable.train.step import batch_losses, train_step
from slimmable.train.task import Batch, Batches, Metric, Outputs, Task

__all__ = [
    "AdamW",
    "Batch",
    "Batches",
    "Constant",
    "Cosine",
    "DrawnSwitches",
    "Exponential",
    "Fixed",
    "LearningRate",
    "Linear",
    "Metric",
    "MovingAverage",
    "Observer",
    "Outputs",
    "Sandwich",
    "Sgd",
    "Step",
    "SwitchList",
    "Task",
    "Timm",
    "TrainSettings",
    "WidthSampler",
    "batch_losses",
    "fit",
    "load_trained",
    "parameter_groups",
    "train_step",
]
