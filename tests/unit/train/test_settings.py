"""Settings are checked once, where they are written."""

import dataclasses

import pytest

from slimmable.errors import RecipeError
from slimmable.train import TrainSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("lr", 0.0),
        ("warmup_epochs", 11.0),
        ("weight_decay", -1e-4),
        ("clip_norm", 0.0),
        ("ema_decay", 1.0),
        ("seed", -1),
        ("channels_last", "yes"),
        ("precision", "float16"),
        ("validate_every", 0),
    ],
)
def test_a_wrong_value_is_named(name, value):
    with pytest.raises(RecipeError, match=f"TrainSettings.{name} is {value!r}; expected"):
        TrainSettings(**{"epochs": 10, name: value})


def test_settings_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainSettings(epochs=1).epochs = 2
