"""Searches after training against the best of all widths, of losses and costs that are sums."""

import sys
from functools import partial
from itertools import product

import numpy as np
import pytest

from slimmable.core.space import WidthGroup, Widths, WidthSpace
from slimmable.errors import MissingDependencyError, SearchError
from slimmable.search import (
    Additive,
    Budget,
    Elimination,
    evolution,
    greedy,
    hypervolume,
    non_dominated,
    nsga2,
    random_search,
    within_budget,
)
from tests.unit.search.additive_problems import Counted, Problem, problem, space_of

SEARCHES = {"random": random_search, "evolution": evolution, "greedy": greedy, "nsga2": nsga2}
DRAWN = ("random", "evolution", "nsga2")
by_loss = partial(greedy, rule="loss")

every_search = pytest.mark.parametrize("search", [*SEARCHES.values(), by_loss], ids=[*SEARCHES, "greedy by loss"])
shares = pytest.mark.parametrize("share", [0.0, 0.2, 0.5])


def budget_at(found: Problem, share: float) -> float:
    """A cost between those of the narrowest and the widest."""
    every = found.everything()[:, 0]
    return every.min() + share * (every.max() - every.min())


@shares
@pytest.mark.parametrize(
    ("search", "distance"),
    [(random_search, 0.03), (evolution, 0.005), (greedy, 0.005), (nsga2, 0.04)],
    ids=list(SEARCHES),
)
def test_best_of_300_trials_is_near_that_of_3600_widths(search, distance, share):
    """Within ``distance`` of the range of all losses, on three problems."""
    for seed in range(3):
        found = problem(seed)
        most, every = budget_at(found, share), found.everything()
        best = search(found.space, found.objective, [Budget(cost=found.cost, most=most)], trials=300).best(most)
        optimum = every[every[:, 0] <= most, 1].min()
        assert optimum - 1e-12 <= best.loss <= optimum + distance * np.ptp(every[:, 1])
        assert best.costs["macs"] <= most


@pytest.mark.parametrize(("search", "distance"), [(evolution, 0.03), (greedy, 0.005)], ids=["evolution", "greedy"])
def test_best_in_a_space_too_large_to_enumerate_is_near_the_bound(search, distance):
    """8^10 widths: within ``distance`` of the range of losses above what no widths within the budget can beat."""
    found = problem(4, sizes=(8,) * 10)
    ends = [found.cost.function([place] * 10) for place in (0, 7)]
    most = ends[0] + 0.3 * (ends[1] - ends[0])
    function = found.cost.function
    solution = within_budget(Elimination(function.sizes, function.pairs), found.loss, function, most)
    best = search(found.space, found.objective, [Budget(cost=found.cost, most=most)], trials=1000).best(most)
    spread = found.loss([0] * 10) - found.loss([7] * 10)
    assert solution.bound - 1e-9 <= best.loss <= solution.bound + distance * spread


def test_nsga2_finds_the_whole_front():
    """300 of 3600 widths: at least 0.98 of the hypervolume of the exact front."""
    for seed in range(3):
        found = problem(seed)
        every = found.everything()
        front = nsga2(found.space, found.objective, [Budget(cost=found.cost)], trials=300)
        exact = every[list(non_dominated(every))]
        assert hypervolume(front.values, every.max(0)) >= 0.98 * hypervolume(exact, every.max(0))


@every_search
def test_every_width_is_evaluated_once_within_the_trials_and_asked_once_for_its_cost(search):
    for trials in (37, 200):
        found = problem(0)
        search(found.space, found.objective, [Budget(cost=found.cost, most=budget_at(found, 0.4))], trials=trials)
        assert len(found.seen) <= trials
        assert len(set(found.seen)) == len(found.seen)
        assert len(set(found.cost.asked)) == len(found.cost.asked)


@every_search
def test_more_trials_than_widths_are_not_missed(search):
    found = problem(0, sizes=(2, 3, 2))
    most = budget_at(found, 0.6)
    front = search(found.space, found.objective, [Budget(cost=found.cost, most=most)], trials=1000)
    every = found.everything()
    assert front.best(most).loss == pytest.approx(every[every[:, 0] <= most, 1].min())
    assert len(found.seen) <= 12


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_candidates_always_keep_to_all_budgets(name):
    found = problem(1)
    channels = Counted(Additive(unary=tuple(np.arange(1.0, size + 1) for size in found.sizes), pairs={}), "channels")
    budgets = [Budget(cost=found.cost, most=budget_at(found, 0.4)), Budget(cost=channels, most=13)]
    SEARCHES[name](found.space, found.objective, budgets, trials=120)
    assert len(found.seen) > 60
    for budget in budgets:
        assert (budget.cost(found.seen) <= budget.most).all()


@every_search
def test_several_budgets_are_all_kept_by_the_best(search):
    found = problem(1)
    channels = Counted(Additive(unary=tuple(np.arange(1.0, size + 1) for size in found.sizes), pairs={}), "channels")
    limits = {"macs": budget_at(found, 0.4), "channels": 13.0}
    budgets = [Budget(cost=cost, most=limits[cost.name]) for cost in (found.cost, channels)]
    best = search(found.space, found.objective, budgets, trials=200).best(limits)
    assert all(best.costs[name] <= limit for name, limit in limits.items())


@every_search
def test_the_same_seed_gives_the_same_front_and_numpy_s_own_generator_is_left_alone(search):
    found, state = [], np.random.get_state()[1].copy()  # noqa: NPY002
    for _ in range(2):
        of = problem(2)
        budgets = [Budget(cost=of.cost, most=budget_at(of, 0.3))]
        found.append((search(of.space, of.objective, budgets, trials=100), of.seen))
    assert found[0] == found[1]
    assert (state == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_tries_other_widths(name):
    seen = []
    for seed in range(2):
        found = problem(2)
        SEARCHES[name](found.space, found.objective, [Budget(cost=found.cost)], trials=60, seed=seed)
        seen.append(set(found.seen))
    assert seen[0] != seen[1]


@every_search
def test_a_budget_that_only_the_narrowest_keep_gives_the_narrowest(search):
    found = problem(0)
    least = budget_at(found, 0.0)
    front = search(found.space, found.objective, [Budget(cost=found.cost, most=least)], trials=200)
    assert front.best(least).widths == found.space.smallest


@every_search
def test_a_budget_that_no_widths_keep_is_refused_with_the_least_cost(search):
    found = problem(0)
    least = budget_at(found, 0.0)
    with pytest.raises(SearchError, match=rf"no widths keep to .* MAC of macs: the smallest need {least:g} MAC"):
        search(found.space, found.objective, [Budget(cost=found.cost, most=0.9 * least)], trials=200)
    assert not found.seen


def test_random_candidates_lie_near_the_budget():
    """No width could be added to most of them: their costs are in the upper tenth below the budget."""
    found = problem(3, sizes=(12,) * 6)
    ends = [found.cost.function([place] * 6) for place in (0, 11)]
    most = ends[0] + 0.3 * (ends[1] - ends[0])
    random_search(found.space, found.objective, [Budget(cost=found.cost, most=most)], trials=100)
    costs = found.cost(found.seen)
    assert (costs <= most).all()
    assert np.median(costs) > ends[0] + 0.9 * (most - ends[0])


def test_greedy_takes_the_best_step_of_every_round():
    """The last width of every batch that was taken is the best by its rule among all of the batch."""
    for rule in ("loss per cost", "loss"):
        found = problem(5)
        batches: list[list[Widths]] = []

        def objective(widths, batches=batches, found=found):
            batches.append(list(widths))
            return found.objective(widths)

        most = budget_at(found, 0.3)
        greedy(found.space, objective, [Budget(cost=found.cost, most=most)], trials=300, rule=rule)
        at, (start, *rounds) = found.space.largest, batches
        assert start == [at]
        for place, batch in enumerate(rounds):
            (loss, *losses), (paid, *costs) = found.objective([at, *batch]), found.cost([at, *batch])
            rises = [
                (new - loss) / (paid - cost) if rule == "loss per cost" else new
                for new, cost in zip(losses, costs, strict=True)
            ]
            at = batch[int(np.argmin(rises))]
            assert all(sum(a != b for a, b in zip(at.channels, w.channels, strict=True)) in (0, 2) for w in batch)
            if place + 1 < len(rounds):
                assert found.cost([at])[0] > most
        assert found.cost([at])[0] <= most


def test_greedy_takes_larger_steps_where_trials_are_few_and_refuses_where_there_are_too_few():
    found = problem(0)
    for trials in (16, 21, 60):
        of = problem(0)
        greedy(of.space, of.objective, [Budget(cost=of.cost, most=budget_at(of, 0.0))], trials=trials)
        assert len(of.seen) <= trials
    with pytest.raises(SearchError, match="a descent over 5 widths may need 16 trials even in single steps, got 15"):
        greedy(found.space, found.objective, [Budget(cost=found.cost)], trials=15)


def test_a_cost_with_plateaus_and_dips_is_searched_too():
    """Latencies do not always fall with the channels."""
    space = space_of((6, 6, 6))

    class Latency:
        name, unit = "latency", "ms"

        def __call__(self, widths):
            return [sum(-(-kept // 4) + 0.3 * (kept == 3) for kept in w.channels) for w in widths]

    every = [space.led(channels) for channels in product(range(1, 7), repeat=3)]
    for search in SEARCHES.values():
        for most in (3.0, 4.5, 5.9):
            front = search(
                space, lambda ws: [-sum(w.channels) for w in ws], [Budget(cost=Latency(), most=most)], trials=100
            )
            within = [w for w, cost in zip(every, Latency()(every), strict=True) if cost <= most]
            assert -front.best(most).loss >= max(sum(w.channels) for w in within) - 1


def test_greedy_goes_on_where_no_width_saves_anything_on_its_own():
    space = space_of((4, 4))

    class Widest:
        name, unit = "widest", "channels"

        def __call__(self, widths):
            return [max(w.channels) for w in widths]

    front = greedy(space, lambda ws: [-sum(w.channels) for w in ws], [Budget(cost=Widest(), most=2)], trials=50)
    assert front.best(2).widths.channels == (2, 2)


def test_tied_groups_move_together():
    groups = tuple(WidthGroup(name=n, base=b, minimum=b // 4, maximum=b, divisor=4) for n, b in (("a", 32), ("b", 64)))
    space = WidthSpace(groups, 0.25, 1.0, ties=(("a", "b"),))
    seen: list[Widths] = []

    class Channels:
        name, unit = "channels", "channels"

        def __call__(self, widths):
            return np.array([sum(w.channels) for w in widths])

    def objective(widths):
        seen.extend(widths)
        return [1 / w["a"] for w in widths]

    for search in SEARCHES.values():
        best = search(space, objective, [Budget(cost=Channels(), most=60)], trials=10).best(60)
        assert sum(best.widths.channels) <= 60
    for widths in seen:
        space.check(widths)


@every_search
def test_a_bar_changes_nothing(search, capsys):
    fronts = []
    for progress in (False, True):
        found = problem(0)
        budgets = [Budget(cost=found.cost, most=budget_at(found, 0.4))]
        fronts.append(search(found.space, found.objective, budgets, trials=50, progress=progress))
        if not progress:
            assert capsys.readouterr() == ("", "")
    assert fronts[0] == fronts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": lambda widths: [0.0]}, "1 losses for"),
        ({"objective": lambda widths: [float("nan")] * len(widths)}, "loss = nan"),
        ({"budgets": []}, "one or more costs of different names"),
        ({"budgets": [Budget(cost=Counted(problem(0).cost.function))] * 2}, "one or more costs of different names"),
        ({"trials": 0}, "at least 1 trial"),
        ({"space": space_of([1])}, "no independent width"),
        ({"batch": 0}, "at least 1 candidate per batch"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    found = problem(0)
    given = {"space": found.space, "objective": found.objective, "budgets": [Budget(cost=found.cost)], "trials": 9}
    with pytest.raises(SearchError, match=message):
        random_search(**(given | options))


def test_settings_out_of_range_are_refused():
    found = problem(0)
    of = (found.space, found.objective, [Budget(cost=found.cost)])
    with pytest.raises(SearchError, match=r"evolution\(population=0"):
        evolution(*of, trials=9, population=0)
    with pytest.raises(SearchError, match=r"nsga2\(population=1\)"):
        nsga2(*of, trials=9, population=1)
    with pytest.raises(SearchError, match="rule='best'"):
        greedy(*of, trials=99, rule="best")
    with pytest.raises(SearchError, match="the budget of macs is nan"):
        Budget(cost=found.cost, most=float("nan"))
    with pytest.raises(SearchError, match="'macs' gave an array of shape"):
        greedy(found.space, found.objective, [Budget(cost=Scalar())], trials=99)


class Scalar:
    name, unit = "macs", "MAC"

    def __call__(self, widths):
        return 1.0


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    found = problem(0)
    of = (found.space, found.objective, [Budget(cost=found.cost)])
    for module, options in (("pymoo.algorithms.moo.nsga2", {}), ("rich.progress", {"progress": True})):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(MissingDependencyError, match=r"slimmable\[search\]"):
                nsga2(*of, trials=9, **options)
