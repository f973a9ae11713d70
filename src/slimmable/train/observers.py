"""Who watches a run: progress on a terminal, curves for TensorBoard, or a user's own object."""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from slimmable.errors import MissingDependencyError


class Observer(Protocol):
    """Is told what happens; cannot change it."""

    def epoch_started(self, epoch: int, *, steps: int) -> None:
        """Epoch ``epoch`` (from 0) of ``steps`` steps begins."""
        ...

    def step_done(self, step: int, *, losses: Sequence[float], lr: float) -> None:
        """Step ``step`` (from 0, over all epochs) is done; ``losses`` are in the order of its widths."""
        ...

    def epoch_done(self, entry: Mapping[str, Any]) -> None:
        """An epoch is over and its checkpoint written; ``entry`` is its line in the history."""
        ...

    def close(self) -> None:
        """The run is over, in one way or another."""
        ...


class TensorBoardCurves:
    """Curves in ``folder`` for ``tensorboard --logdir``.

    Args:
        folder: Where the event files go.
        step: Steps already done; a resumed run writes over anything after them.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path, *, step: int = 0) -> None:
        try:
            tensorboard = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise MissingDependencyError(
                "curves need tensorboard, which is not installed: pip install tensorboard, or train without curves"
            ) from error
        self.writer = tensorboard.SummaryWriter(str(folder), purge_step=step)
        self.step = step

    def epoch_started(self, epoch: int, *, steps: int) -> None:
        """Nothing to draw."""

    def step_done(self, step: int, *, losses: Sequence[float], lr: float) -> None:
        """Draw the losses and the learning rate."""
        self.step = step
        self.writer.add_scalar("train/loss of the widest", losses[0], step)
        self.writer.add_scalar("train/loss, mean over widths", sum(losses) / len(losses), step)
        self.writer.add_scalar("train/learning rate", lr, step)

    def epoch_done(self, entry: Mapping[str, Any]) -> None:
        """Draw the validation figures."""
        for index, line in enumerate(entry["validation"]):
            for name, value in line["figures"].items():
                self.writer.add_scalar(f"validation/{name} of width {index}", value, self.step)
        self.writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        self.writer.close()


def terminal_progress(*, epochs: int, metric: str) -> list[Observer]:
    """Progress on standard error if that is a terminal and rich is installed, nothing otherwise."""
    if importlib.util.find_spec("rich") is None:
        return []
    from rich.console import Console

    from slimmable.train.terminal import TerminalProgress

    console = Console(stderr=True)
    return [TerminalProgress(epochs=epochs, metric=metric, console=console)] if console.is_terminal else []
