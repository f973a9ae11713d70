"""Progress on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TerminalProgress:
    """A bar for the running epoch and a line for every finished one.

    Args:
        epochs: Epochs of the run.
        metric: The figure shown for each validated width.
        console: Where to write; usually a terminal, see :func:`~slimmable.train.observers.terminal_progress`.
    """

    def __init__(self, *, epochs: int, metric: str, console: Console) -> None:
        self.epochs = epochs
        self.metric = metric
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        self.bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
        self.bar = self.bars.add_task("", total=None, loss="")
        self.bars.start()

    def epoch_started(self, epoch: int, *, steps: int) -> None:
        """A fresh bar."""
        self.bars.reset(self.bar, total=steps, description=f"epoch {epoch + 1}/{self.epochs}", loss="")

    def step_done(self, step: int, *, losses: Sequence[float], lr: float) -> None:
        """Advance the bar."""
        self.bars.update(self.bar, advance=1, loss="loss " + _figures(losses))

    def epoch_done(self, entry: Mapping[str, Any]) -> None:
        """Print the epoch's line."""
        found = [line["figures"][self.metric] for line in entry["validation"]]
        validated = f"  {self.metric} {_figures(found)}" if found else ""
        self.bars.console.print(
            f"epoch {entry['epoch']}/{self.epochs}  loss {_figures(entry['losses'])}{validated}  "
            f"lr {entry['lr']:.4g}  {entry['seconds']:.1f} s",
            highlight=False,
        )

    def close(self) -> None:
        """Remove the bar."""
        self.bars.stop()


def _figures(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
