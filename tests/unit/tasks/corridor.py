"""An environment in which every reward is known, and policies that always do the same."""

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

NAME = "SlimmableCorridor-v0"
PAINTED = "SlimmablePaintedCorridor-v0"
LENGTH = 5


class Corridor(gymnasium.Env[np.ndarray, np.int64]):
    """Five steps and a sixth for odd seeds; action 1 earns 1 and action 0 nothing, and the last step 10 more."""

    observation_space = gymnasium.spaces.Box(-20, 20, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = 0
        if seed is not None:
            self.length = LENGTH + seed % 2
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place += 1
        done = self.place == self.length
        return self._seen(), float(action) + 10.0 * done, done, False, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.place, self.length, self.np_random.normal()], dtype=np.float32)


class Painted(Corridor):
    """The corridor as a picture, whose channels come last."""

    observation_space = gymnasium.spaces.Box(0, 255, (12, 16, 3), np.uint8)

    def _seen(self) -> np.ndarray:
        return np.full((12, 16, 3), self.place, np.uint8)


class Stubborn(nn.Module):
    """Prefers one action by far, and values what it sees by its first number."""

    def __init__(self, action: int) -> None:
        super().__init__()
        self.action = action
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = x.new_zeros(len(x), 2)
        logits[:, self.action] = 50.0
        return logits, self.dropout(torch.ones_like(x[:, :1])) * x[:, :1]


def register() -> None:
    for name, environment in ((NAME, Corridor), (PAINTED, Painted)):
        if name not in gymnasium.registry:
            gymnasium.register(name, environment)
