"""From a recipe to the objects it describes."""

import torch
from torch import Tensor, nn

from slimmable.core.convert import convert
from slimmable.core.model import SlimmableModel
from slimmable.core.space import Widths
from slimmable.recipes.budgets import read_cost
from slimmable.recipes.config import ConversionSettings, Recipe
from slimmable.recipes.methods import (
    Independent,
    Method,
    Naive,
    OwsMethod,
    PareCoMethod,
    PlatformsMethod,
    SNet,
    UsNet,
)
from slimmable.search import Alternatives, Elimination, additive, within_budget
from slimmable.search.ows import Adaptation, Ows
from slimmable.search.pareco import PareCo
from slimmable.train import DrawnSwitches, Fixed, Sandwich, SwitchList, Task, WidthSampler
from slimmable.train.randomness import seeded


def new_network(recipe: Recipe, task: Task) -> SlimmableModel:
    """The converted network before training: a function of the recipe, its seed included."""
    with seeded(recipe.train.seed, device=torch.device("cpu")):
        plain = task.model()
        return converted(plain, task.example_inputs(), options=recipe.convert, method=recipe.method)


def converted(
    plain: nn.Module, inputs: tuple[Tensor, ...], *, options: ConversionSettings, method: Method
) -> SlimmableModel:
    """``plain`` made elastic, with the batch norm that ``method`` needs.

    Raises:
        ConversionError: The network cannot be converted with these options.
    """
    switches: tuple[float | Widths, ...] | None = None
    match method:
        case SNet():
            switches = method.switches
        case Independent():
            switches = (method.width,)
        case PlatformsMethod():
            switches = tuple(dict.fromkeys(map(Widths.from_json, method.widths.values())))
        case _:
            pass
    return convert(
        plain,
        inputs,
        min_ratio=options.min_ratio,
        max_ratio=options.max_ratio,
        divisor=options.divisor,
        exclude=options.exclude,
        tie=options.tie,
        follow=options.follow,
        averaged=options.averaged,
        importance=options.importance,
        switches=switches,
        batch_norm="naive" if isinstance(method, Naive) else None,
    )


def sampler(recipe: Recipe, net: SlimmableModel, *, steps_per_epoch: int) -> WidthSampler:
    """Who chooses the widths of a step.

    Args:
        recipe: The experiment.
        net: Its network.
        steps_per_epoch: Batches of an epoch, for methods that change as training goes on.

    Raises:
        WidthError: Two switches round to the same widths.
        SearchError: A budget that no widths keep to, or a cost that is no sum over layers.
    """
    method, space, seed = recipe.method, net.space, recipe.train.seed
    match method:
        case UsNet():
            return Sandwich(space, n=method.n, mode=method.mode, seed=seed)
        case Independent():
            return Fixed(space.uniform(method.width))
        case PareCoMethod():
            cost = read_cost(method.cost, net, latency=method.latency)
            return PareCo(
                space, cost, m=method.m, n=method.n, warm_up=method.warm_up, acquisition=method.acquisition, seed=seed
            )
        case OwsMethod():
            return ows_sampler(method, net, epochs=recipe.train.epochs, steps_per_epoch=steps_per_epoch, seed=seed)
        case PlatformsMethod():
            return _platforms_sampler(method, net, seed)
        case SNet() | Naive():
            return SwitchList([space.uniform(ratio) for ratio in method.switches])


def ows_sampler(method: OwsMethod, net: SlimmableModel, *, epochs: int, steps_per_epoch: int, seed: int) -> Ows:
    """OWS's sampler, or AOWS's."""
    alternatives = Alternatives.of(net.space, most=method.choices)
    cost = additive(read_cost(method.cost, net, latency=method.latency), alternatives)
    solver = Elimination(cost.sizes, cost.pairs)
    for platform in method.platforms:
        within_budget(solver, cost, cost, platform.budget)
    adaptation = None
    if method.adaptive:
        warm_up = round(method.warm_up_epochs * steps_per_epoch)
        adaptation = Adaptation(
            cost=cost,
            platforms=method.platforms,
            warm_up=warm_up,
            steps=epochs * steps_per_epoch,
            temperatures=method.temperatures,
            joint=method.joint,
        )
    return Ows(alternatives, k=method.k, window=method.window, adaptation=adaptation, seed=seed)


def _platforms_sampler(method: PlatformsMethod, net: SlimmableModel, seed: int) -> WidthSampler:
    if method.n is None or len(net.switches) < 3:
        return SwitchList(net.switches)
    weights = None
    if method.weights is not None:
        of: dict[Widths, float] = {}
        for name, channels in method.widths.items():
            widths = Widths.from_json(channels)
            of[widths] = of.get(widths, 0.0) + method.weights[name]
        weights = [of[widths] for widths in net.switches]
    return DrawnSwitches(net.switches, weights=weights, n=min(method.n, len(net.switches)), seed=seed)
