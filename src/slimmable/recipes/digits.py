"""Real handwritten digits in a minute on a CPU: every method with the same budget."""

from dataclasses import replace

from slimmable.recipes.config import EvaluationSettings, Recipe
from slimmable.recipes.methods import Independent, Naive, OwsMethod, PareCoMethod, SNet, UsNet
from slimmable.recipes.tasks import ClassificationSettings, NetworkSettings
from slimmable.search import Platform
from slimmable.tasks import ImageDataSettings
from slimmable.train import Cosine, TrainSettings


def us_net() -> Recipe:
    """US-Net on scikit-learn's digits: any width from 0.25 to 1.0."""
    return Recipe(
        task=ClassificationSettings(
            data=ImageDataSettings(dataset="digits", batch_size=64), network=NetworkSettings(name="digits_cnn")
        ),
        train=TrainSettings(epochs=20, lr=0.1, schedule=Cosine(), weight_decay=5e-4),
    )


def us_net_nonuniform() -> Recipe:
    """US-Net on digits with one random ratio for each group, as searches for per-layer widths want it."""
    return us_net().model_copy(update={"method": UsNet(mode="nonuniform")})


def pareco() -> Recipe:
    """PareCO on digits: two widths every 20 steps, the front calibrated and evaluated."""
    return us_net().model_copy(update={"method": PareCoMethod(n=20)})


def ows() -> Recipe:
    """OWS on digits: widths for three platforms, found while one network trains at random ones."""
    base = us_net()
    budgets = {"watch": 200_000.0, "phone": 600_000.0, "desk": 1_200_000.0}
    platforms = tuple(
        Platform(name=name, budget=budget, importance=1 / 3, sampling=1 / 3) for name, budget in budgets.items()
    )
    train = replace(base.train, distillation=False)
    return base.model_copy(update={"method": OwsMethod(platforms=platforms), "train": train})


def s_net() -> Recipe:
    """S-Net on digits: four switches with private batch norm, all learning from the labels."""
    base = us_net()
    train = replace(base.train, distillation=False)
    return base.model_copy(update={"method": SNet(), "train": train, "calibration": None})


def independent() -> Recipe:
    """One ordinary network on digits; ``method.width`` says how wide."""
    base = us_net()
    train = replace(base.train, distillation=False)
    return base.model_copy(update={"method": Independent(), "train": train, "calibration": None})


def naive() -> Recipe:
    """Four widths on digits that share statistics of batch norm too: the narrow ones fail."""
    return s_net().model_copy(update={"method": Naive()})


def smoke() -> Recipe:
    """A US-Net on digits for three epochs: a check that everything works, in seconds."""
    base = us_net()
    return base.model_copy(
        update={
            "train": replace(base.train, epochs=3),
            "evaluation": EvaluationSettings(widths="0.25:1.0:0.25"),
        }
    )
