"""The latency of a network on this device: which widths are timed, how the file grows, and the model in the end."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch

from slimmable.core.convert import convert
from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths, WidthSpace
from slimmable.cost.latency import SCHEMA_VERSION, LatencyModel
from slimmable.cost.timing import Clock, Timing, device_record, measure_latency
from slimmable.errors import CheckpointError, CostError
from slimmable.models import build_model
from slimmable.recipes.building import converted
from slimmable.recipes.config import Naive
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.folder import FACTS, RECIPE
from slimmable.recipes.reading import read_recipe
from slimmable.recipes.widths import NamedWidths, name_ratios
from slimmable.record import Json, atomic_write_json, jsonable

LATENCY = "latency.json"

_RATIOS = 7


@dataclass(frozen=True, kw_only=True)
class ProfileSettings:
    """What is timed, and how often.

    Attributes:
        count: Random widths to fit the model to.
        held_out: Random widths to state its error on.
        rounds: Turns of each width that count.
        threads: Threads of torch; None leaves them as they are.
        batch: Examples in a forward pass.
        clock: ``wall``, or ``cpu`` time of one thread.
        seed: Of the random widths.
    """

    count: int = 200
    held_out: int = 50
    rounds: int = 15
    threads: int | None = None
    batch: int = 1
    clock: Clock = "wall"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.held_out < 1 or self.rounds < 1 or self.batch < 1 or self.count < 0:
            raise CostError(
                "expected at least one width held out, one round and a batch of one, got "
                f"{self.held_out}, {self.rounds} and {self.batch} (and {self.count} widths to fit)"
            )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a profile found.

    Attributes:
        model: The latency of any widths.
        named: Timings of the widths that have names, by name.
        errors: Absolute percentage errors of the model on the held-out widths, ascending.
    """

    model: LatencyModel
    named: dict[str, Timing]
    errors: tuple[float, ...]

    @property
    def median_error(self) -> float:
        """Median of the absolute percentage errors."""
        return median(self.errors)


def named_network(
    name: str, *, input_size: tuple[int, ...] | None, options: Mapping[str, Any]
) -> tuple[SlimmableModel, tuple[int, ...]]:
    """The network called ``name`` and the size of its input, in evaluation mode, with weights of no meaning.

    Batch norm is shared by all widths as it is, so that every width runs: time does not depend on statistics.

    Args:
        name: As :func:`slimmable.models.build_model` takes it.
        input_size: Another size than the network's own.
        options: Keywords of :func:`slimmable.convert`.
    """
    built = build_model(name)
    size = tuple(input_size or built.input_size)
    return convert(built.model.eval(), torch.randn(2, *size), batch_norm="naive", **options), size


def network_of_run(folder: str | Path) -> tuple[SlimmableModel, tuple[int, ...]]:
    """The network of the run in ``folder``, finished or not, as :func:`named_network` makes one of a name."""
    recipe, facts = read_recipe(Path(folder) / RECIPE), NetworkFacts.load(Path(folder) / FACTS)
    plain = recipe.task.plain_network(facts).eval()
    net = converted(plain, facts.example_inputs(), options=recipe.convert, method=Naive())
    return net.eval(), facts.input_size


def uniform_widths(space: WidthSpace) -> list[NamedWidths]:
    """A few different uniform widths from the narrowest to the widest; the middle one comes first, as a reference."""
    step = (space.max_ratio - space.min_ratio) / (_RATIOS - 1)
    ratios = [round(space.min_ratio + step * place, 6) for place in range(_RATIOS)]
    middle = ratios.pop(_RATIOS // 2)
    distinct: dict[Widths, NamedWidths] = {}
    for each in name_ratios([middle, *ratios], space):
        distinct.setdefault(each.widths, each)
    return list(distinct.values())


def profile(
    net: SlimmableModel,
    input_size: tuple[int, ...],
    path: str | Path,
    *,
    settings: ProfileSettings,
    named: Sequence[NamedWidths] = (),
    device: torch.device | str = "cpu",
    resume: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Profile:
    """Time a network at many widths and fit a model of its latency; both are kept in ``path``.

    The file is written after every block of widths, so that an interrupted profile goes on where it stopped. It is a
    latency model's file (:meth:`slimmable.cost.latency.LatencyModel.load`) with the timings beside.

    Args:
        net: A converted network; see :func:`named_network`.
        input_size: Of one example.
        path: The JSON file.
        settings: What is timed.
        named: Widths that are timed and fitted besides the random ones; the first of them is the reference.
        device: Where.
        resume: Take up the timings of a file that an interrupted profile with the same settings left.
        progress: Called after every block with the widths timed, and all.

    Raises:
        CheckpointError: The file to resume was made with other settings, another network or another device.
        CostError: The space has too few different widths to fit a model.
        MissingDependencyError: SciPy is not installed.
    """
    inputs = torch.randn(settings.batch, *input_size, generator=torch.Generator().manual_seed(0)).to(device)
    first = list(dict.fromkeys(each.widths for each in named))
    fitted, held_out = chosen(net.space, settings, first)
    # A slow drift of the machine meets all kinds of widths alike.
    order = _spread(first, fitted[len(first) :], held_out)
    record = device_record(inputs, net.space, threads=settings.threads, clock=settings.clock)
    head: dict[str, Json] = {
        "schema": SCHEMA_VERSION,
        "cost": LatencyModel.name,
        "space": net.space.to_json(),
        "device": record,
        "rounds": settings.rounds,
    }
    found = _taken_up(Path(path), head, net.space, order) if resume else []
    remaining = order[len(found) :]
    before = list(found)

    def kept(timings: Sequence[Timing]) -> None:
        found[:] = before + list(timings)
        atomic_write_json(path, head | {"timings": [timing.to_json() for timing in found]})
        if progress is not None:
            progress(len(found), len(order))

    if remaining:
        measure_latency(
            net.to(device),
            remaining,
            inputs,
            rounds=settings.rounds,
            threads=settings.threads,
            clock=settings.clock,
            anchor=before[0] if before else None,
            progress=kept,
        )
    by_widths = {timing.widths: timing for timing in found}
    left_out = [by_widths[widths] for widths in held_out]
    model = LatencyModel.fit(net, [by_widths[widths] for widths in fitted], held_out=left_out, device=record)
    told = model(held_out)
    errors = sorted(abs(own / timing.milliseconds - 1) * 100 for own, timing in zip(told, left_out, strict=True))
    timings: list[Json] = [timing.to_json() | {"held_out": timing.widths in set(held_out)} for timing in found]
    atomic_write_json(path, head | model.to_json() | {"timings": timings})
    return Profile(
        model=model,
        named={each.label: by_widths[each.widths] for each in named},
        errors=tuple(map(float, errors)),
    )


def chosen(space: WidthSpace, settings: ProfileSettings, named: Sequence[Widths]) -> tuple[list[Widths], list[Widths]]:
    """Widths to fit, the named ones first, and widths to hold out: all different.

    A small space may have fewer than were asked for; the two kinds then share what there is.

    Raises:
        CostError: It has hardly any.
    """
    first = dict.fromkeys(named)
    wanted = settings.count + settings.held_out
    generator = Random(settings.seed)
    drawn = dict.fromkeys(space.random(generator) for _ in range(4 * wanted))
    others = [widths for widths in drawn if widths not in first][:wanted]
    held_out = min(settings.held_out, round(len(others) * settings.held_out / wanted))
    if held_out < 1:
        raise CostError(
            f"only {len(first) + len(others)} different widths were found in this space, too few to fit a model and to "
            "hold some out; convert with a smaller divisor or min_ratio, or time all of them with measure_latency"
        )
    return [*first, *others[held_out:]], others[:held_out]


def _spread(*kinds: Sequence[Widths]) -> list[Widths]:
    """All widths of several lists, each list evenly among the others; the first of the first list stays first."""
    places = [
        ((place + (0.5 if kind else 0)) / len(widths_list), widths)
        for kind, widths_list in enumerate(kinds)
        for place, widths in enumerate(widths_list)
    ]
    return [widths for _, widths in sorted(places, key=lambda each: each[0])]


def _taken_up(path: Path, head: Mapping[str, Json], space: WidthSpace, order: Sequence[Widths]) -> list[Timing]:
    """Timings of an earlier profile, as far as they are the first ones of this one."""
    if not path.exists():
        return []
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        if changed := [name for name, own in json.loads(json.dumps(jsonable(head))).items() if value.get(name) != own]:
            raise CheckpointError(f"{path} was made with another {', '.join(changed)}; profile anew, without --resume")
        found = [Timing.from_json(entry, space) for entry in value["timings"]]
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a profile: {error!r}; profile anew, without --resume"
        ) from error
    if [timing.widths for timing in found] != list(order[: len(found)]):
        raise CheckpointError(f"{path} holds timings of other widths; profile anew, without --resume")
    return found
