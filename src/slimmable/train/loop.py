"""The one training loop: every method of this library is this loop with another sampler."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn

from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths
from slimmable.errors import RecipeError, TrainingError
from slimmable.measure.evaluation import evaluate
from slimmable.record import Json, RunRecord, jsonable
from slimmable.train.checkpoint import save_checkpoint
from slimmable.train.observers import Observer, TensorBoardCurves, terminal_progress
from slimmable.train.randomness import epoch_seed, seeded
from slimmable.train.run import CHECKPOINT, CURVES, RECORD, Run, load_or_refuse, new_record, status_kept
from slimmable.train.samplers import WidthSampler
from slimmable.train.schedules import LearningRate
from slimmable.train.settings import TrainSettings
from slimmable.train.step import batch_losses, train_step
from slimmable.train.task import Task


def fit(
    net: SlimmableModel,
    task: Task,
    *,
    sampler: WidthSampler,
    settings: TrainSettings,
    folder: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    curves: bool = False,
    observers: Sequence[Observer] = (),
) -> RunRecord:
    """Train ``net`` in place and return the record of the run.

    Every step asks ``sampler`` for widths, sums their gradients (:func:`~slimmable.train.step.train_step`) and takes
    one step of the optimizer. After every epoch the widths that belong to all steps are validated, and a checkpoint
    and the record are written. The same seed gives the same weights, and on the CPU a resumed run ends with exactly
    those of an uninterrupted one. Batch norms at other widths than these want :func:`slimmable.calibrate` afterwards.

    ::

        folder/last.safetensors   the run at the end of its last whole epoch
        folder/record.json        what it did so far
        folder/curves/            for TensorBoard, on request

    Args:
        net: A converted model. It is moved to ``device`` and to the settings' memory format, trained, and left in the
            mode (training or evaluation) it came in, with the averaged weights if the settings ask for an average.
        task: Data, losses, metric.
        sampler: Chooses the widths of every step: :class:`~slimmable.train.samplers.SwitchList` for S-Net,
            :class:`~slimmable.train.samplers.Sandwich` for US-Net, :class:`~slimmable.train.samplers.Fixed` for one
            independent network.
        settings: Everything else that affects the result.
        folder: Where to write; None writes nothing.
        resume: Continue the run in ``folder`` from the end of its last whole epoch; start it if there is none yet.
        device: Where to train; None leaves the network where it is.
        progress: Show progress, if standard error is a terminal.
        curves: Write TensorBoard curves into ``folder``.
        observers: Told of every step and epoch.

    Returns:
        The record, as written to ``folder/record.json``.

    Raises:
        TrainingError: A loss, gradient norm or weight is not finite (step, widths and learning rate are named); the
            task's batches are not as many as it says; or ``folder`` holds a run and ``resume`` is not set.
        CheckpointError: The run in ``folder`` had other settings, another sampler or another network.
        RecipeError: Settings that do not suit the network, or curves without a folder.

    Interrupting with Ctrl-C leaves a folder that ``resume=True`` continues, and raises ``KeyboardInterrupt``.
    """
    home = Path(folder) if folder is not None else None
    if curves and home is None:
        raise RecipeError("fit(curves=True) has no folder to write to; pass folder=")
    run = Run.prepare(net, task, sampler, settings, device)
    load_or_refuse(run, home, resume=resume)
    record = new_record(run, home)
    watchers = list(observers)
    if progress:
        watchers += terminal_progress(epochs=settings.epochs, metric=task.metric)
    if curves and home is not None:
        watchers.append(TensorBoardCurves(home / CURVES, step=run.state.progress.step))
    training = net.training
    with ExitStack() as closing:
        closing.callback(net.train, training)
        for watcher in watchers:
            closing.callback(watcher.close)
        with status_kept(record, home):
            _train(run, record, home, watchers)
    return record


def _train(run: Run, record: RunRecord, home: Path | None, watchers: Sequence[Observer]) -> None:
    state, settings = run.state, run.settings
    while state.progress.epoch < settings.epochs:
        epoch = state.progress.epoch
        with seeded(epoch_seed(settings.seed, epoch), device=run.device):
            entry = _epoch(run, epoch, watchers)
        state.progress.epoch += 1
        state.progress.history.append(entry)
        if home is not None:
            save_checkpoint(state, home / CHECKPOINT, settings=settings)
            record.save(home / RECORD)
        for watcher in watchers:
            watcher.epoch_done(entry)
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.copy_to(state.net)


def _epoch(run: Run, epoch: int, watchers: Sequence[Observer]) -> dict[str, Json]:
    """Train one epoch, validate, and say how it went."""
    state, settings = run.state, run.settings
    started = time.perf_counter()
    state.net.train()
    batches = run.task.train_batches(state.net, epoch=epoch, seed=settings.seed)
    steps = len(batches)
    rate = LearningRate(
        base=settings.lr,
        schedule=settings.schedule,
        per_epoch=max(steps, 1),
        epochs=settings.epochs,
        warmup_epochs=settings.warmup_epochs,
    )
    for watcher in watchers:
        watcher.epoch_started(epoch, steps=steps)
    totals: list[float] = []
    lr, done = 0.0, 0
    with state.net.at(state.sampler.fixed[0]):  # a policy acts at its widest between the steps
        for batch in batches:
            if done < steps:
                lr = rate(epoch * steps + done)
                losses = _advance(run, batch, lr)
                totals = [a + b for a, b in zip(totals or [0.0] * len(losses), losses, strict=True)]
                for watcher in watchers:
                    watcher.step_done(state.progress.step - 1, losses=losses, lr=lr)
            done += 1
    if done != steps or steps == 0:
        raise TrainingError(
            f"task {run.task.name!r} announced {steps} training batches for epoch {epoch} and gave {done}; "
            "expected at least one, and as many as len() says: the learning rate depends on it"
        )
    _check_weights(run, epoch)
    last = epoch + 1 == settings.epochs
    return {
        "epoch": epoch + 1,
        "steps": steps,
        "lr": lr,
        "losses": [total / steps for total in totals],
        "validation": _validate(run) if last or (epoch + 1) % settings.validate_every == 0 else [],
        "seconds": time.perf_counter() - started,
    }


def _advance(run: Run, batch: object, lr: float) -> list[float]:
    """One step of the optimizer; the losses in the order of the step's widths."""
    state, settings = run.state, run.settings

    def probe(widths_list: Sequence[Widths]) -> list[float]:
        return batch_losses(state.net, batch, task=run.task, widths_list=widths_list, precision=settings.precision)

    widths_list = state.sampler.ask(state.progress.step, probe)
    state.optimizer.zero_grad(set_to_none=True)
    found = train_step(
        state.net,
        batch,
        task=run.task,
        widths_list=widths_list,
        distill=settings.distillation,
        precision=settings.precision,
        dropout_widest_only=settings.dropout_widest_only,
    )
    # Here the gradients are whole and nothing has used them: several processes would average them at this point.
    losses = torch.stack([loss.float() for loss in found]).tolist()
    for widths, loss in zip(widths_list, losses, strict=True):
        if not abs(loss) < float("inf"):
            raise TrainingError(
                f"the loss is {loss} at step {state.progress.step}, {_shown(widths)}, learning rate {lr:.4g}; "
                "expected a finite number: lower lr, add warmup_epochs or clip_norm, or look for bad values in the data"
            )
    if settings.clip_norm is not None:
        norm = nn.utils.clip_grad_norm_(state.net.parameters(), settings.clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"the gradient's norm is {norm.item()} at step {state.progress.step}, learning rate {lr:.4g}, "
                f"widths {', '.join(map(_shown, widths_list))}; expected a finite number"
            )
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.optimizer.step()
    if state.average is not None:
        state.average.update(state.net)
    for widths, loss in zip(widths_list, losses, strict=True):
        state.sampler.tell(widths, loss)
    state.progress.step += 1
    return losses


def _validate(run: Run) -> list[Json]:
    """Figures at the widths that every step trains, as far as their batch-norm statistics are followed."""
    net = run.state.net
    everywhere = not net.has_batch_norm or net.batch_norm == "naive"
    tracked = [widths for widths in run.state.sampler.fixed if everywhere or widths in net.calibrated]
    if not tracked:
        return []
    with ExitStack() as stack:
        if run.state.average is not None:
            stack.enter_context(run.state.average.applied(net))
        found = evaluate(
            net, run.task.validation_batches(), tracked, forward=run.task.forward, metric_factory=run.task.metrics
        )
    return [
        {"widths": dict(widths.to_json()), "figures": jsonable(figures)}
        for widths, figures in zip(tracked, found, strict=True)
    ]


def _check_weights(run: Run, epoch: int) -> None:
    for name, parameter in run.state.net.named_parameters():
        if not torch.isfinite(parameter).all():
            raise TrainingError(
                f"{name} holds values that are not finite after epoch {epoch}, whose losses were finite; "
                "no checkpoint of it was written: lower lr, or add clip_norm"
            )


def _shown(widths: Widths) -> str:
    return f"{widths} ({sum(widths.channels)} channels)"
