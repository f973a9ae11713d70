"""Who chooses the widths of a training step: the one thing in which the methods differ.

Draws are functions of the seed and the step, not of a generator that runs along: a resumed run, and every process of
a distributed one, meets the same widths without exchanging state.
"""

import random
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Literal, Protocol

from slimmable.core.sampling import Probe, check_same_sampler, widest_first
from slimmable.core.space import Widths, WidthSpace
from slimmable.errors import RecipeError, WidthError
from slimmable.record import Json


class WidthSampler(Protocol):
    """Chooses the widths of every step, and may learn from their losses."""

    @property
    def fixed(self) -> tuple[Widths, ...]:
        """Widths that belong to every step, widest first: those whose accuracy training can follow."""
        ...

    def ask(self, step: int, probe: Probe) -> Sequence[Widths]:
        """Widths of step ``step`` (from 0), widest first: the first is the teacher of the others.

        Args:
            step: Number of the step.
            probe: What a sampler may look at before it decides; most do not.
        """
        ...

    def tell(self, widths: Widths, loss: float) -> None:
        """Take in the training loss that ``widths`` had in the step just asked for."""
        ...

    def state_dict(self) -> dict[str, Json]:
        """What the future draws depend on, settings included, in JSON types."""
        ...

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            CheckpointError: The state is that of another sampler.
        """
        ...


class SwitchList:
    """All widths of a list at every step: S-Net's rule.

    Args:
        switches: The widths, in any order; usually ``net.switches``.

    Raises:
        WidthError: An empty list, or the same widths twice.

    References:
        Yu et al. Slimmable Neural Networks. ICLR 2019, Algorithm 1.
    """

    def __init__(self, switches: Sequence[Widths]) -> None:
        if not switches:
            raise WidthError("the list of switches is empty; expected at least one Widths, such as net.space.largest")
        if len(set(switches)) < len(switches):
            raise WidthError(
                f"{len(switches)} switches hold {len(set(switches))} distinct widths; expected no repetition: "
                "ratios that round to the same channel counts are one switch"
            )
        self.fixed = widest_first(switches)

    def ask(self, step: int, probe: Probe | None = None) -> Sequence[Widths]:
        """The step's widths, widest first; the batch is not looked at."""
        return self.fixed

    def tell(self, widths: Widths, loss: float) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Json]:
        """The description of this sampler: it has no other state."""
        return {"sampler": "switch_list", "switches": [dict(widths.to_json()) for widths in self.fixed]}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Pass if ``state`` describes this sampler."""
        check_same_sampler(state, self.state_dict())


class DrawnSwitches:
    """The widest and the narrowest of a list at every step, and ``n - 2`` of the others, drawn by weight.

    How the multi-platform paper trains the final network: its random widths are those of other platforms, drawn
    uniformly (Slim-U, OWS-U, AOWS-U) or as often as the platforms count (-W).

    Args:
        switches: The widths, in any order; usually ``net.switches``.
        weights: How often each is drawn, in the order of ``switches``; those of the widest and narrowest do not
            matter. None draws uniformly.
        n: Widths per step.
        seed: Step :math:`t` draws from a generator seeded by ``(seed, t)``.

    Raises:
        WidthError: The same switches twice, or weights that are not as many, not finite or not positive.
        RecipeError: ``n`` below 3 or above the number of switches, of which there must be three.

    References:
        Wang, Blaschko. Optimizing Slimmable Networks for Multiple Target Platforms. Section 4.1.
    """

    def __init__(
        self, switches: Sequence[Widths], *, weights: Sequence[float] | None = None, n: int = 3, seed: int = 0
    ) -> None:
        ordered = SwitchList(switches).fixed
        if not 3 <= n <= len(ordered):
            raise RecipeError(f"DrawnSwitches(n={n}) of {len(ordered)} switches; expected 3 to {len(ordered)}")
        given = [1.0] * len(switches) if weights is None else list(weights)
        if len(given) != len(switches) or not all(weight > 0 and isfinite(weight) for weight in given):
            raise WidthError(f"expected {len(switches)} finite weights above 0, one for each switch, got {given}")
        of = dict(zip(switches, given, strict=True))
        self.fixed = (ordered[0], ordered[-1])
        self.between = ordered[1:-1]
        self.weights = [of[widths] for widths in self.between]
        self.n, self.seed = n, seed

    def ask(self, step: int, probe: Probe | None = None) -> Sequence[Widths]:
        """The step's widths, widest first; the batch is not looked at."""
        generator = random.Random(f"drawn {self.seed} {step}")
        left = dict(zip(self.between, self.weights, strict=True))
        drawn: list[Widths] = []
        for _ in range(self.n - 2):
            [widths] = generator.choices(list(left), list(left.values()))
            drawn.append(widths)
            del left[widths]
        return (self.fixed[0], *widest_first(drawn), self.fixed[-1])

    def tell(self, widths: Widths, loss: float) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Json]:
        """The description of this sampler: it has no other state."""
        switches = (self.fixed[0], *self.between, self.fixed[-1])
        return {
            "sampler": "drawn_switches",
            "switches": [dict(widths.to_json()) for widths in switches],
            "weights": list(self.weights),
            "n": self.n,
            "seed": self.seed,
        }

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Pass if ``state`` describes this sampler."""
        check_same_sampler(state, self.state_dict())


class Fixed:
    """The same widths at every step: one independent network.

    Args:
        widths: The widths to train; ``net.space.largest`` for a network that was built at its final size.
    """

    def __init__(self, widths: Widths) -> None:
        self.fixed = (widths,)

    def ask(self, step: int, probe: Probe | None = None) -> Sequence[Widths]:
        """The step's widths, widest first; the batch is not looked at."""
        return self.fixed

    def tell(self, widths: Widths, loss: float) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Json]:
        """The description of this sampler: it has no other state."""
        return {"sampler": "fixed", "widths": dict(self.fixed[0].to_json())}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Pass if ``state`` describes this sampler."""
        check_same_sampler(state, self.state_dict())


class Sandwich:
    r"""Widest, narrowest and ``n - 2`` random widths at every step: US-Net's rule.

    The accuracy of every width lies between those of the narrowest and the widest, so training both ends lifts all
    widths between [1, Eq. 3].

    Args:
        space: The network's width space.
        n: Widths per step.
        mode: ``"uniform"`` draws one ratio for all groups, ``"nonuniform"`` one ratio per free group.
        seed: Step :math:`t` draws from a generator seeded by ``(seed, t)``.

    Raises:
        RecipeError: ``n`` below 2.

    References:
        [1] Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, section 4.1 and
        Algorithm 1.

    Example:
        >>> from slimmable.core.space import WidthGroup, WidthSpace
        >>> space = WidthSpace((WidthGroup(name="conv", base=64, minimum=16, maximum=64, divisor=8),), 0.25, 1.0)
        >>> [widths["conv"] for widths in Sandwich(space, n=2).ask(0)]
        [64, 16]
    """

    def __init__(
        self, space: WidthSpace, *, n: int = 4, mode: Literal["uniform", "nonuniform"] = "uniform", seed: int = 0
    ) -> None:
        if n < 2:
            raise RecipeError(f"Sandwich(n={n}); expected at least 2: the widest and the narrowest")
        if mode not in ("uniform", "nonuniform"):
            raise RecipeError(f"Sandwich(mode={mode!r}); expected 'uniform' or 'nonuniform'")
        self.space = space
        self.n = n
        self.mode: Literal["uniform", "nonuniform"] = mode
        self.seed = seed
        self.fixed = (space.largest, space.smallest)

    def ask(self, step: int, probe: Probe | None = None) -> Sequence[Widths]:
        """The step's widths, widest first; the batch is not looked at."""
        # A text seed is hashed by random.Random itself, alike in every process and on every platform.
        generator = random.Random(f"sandwich {self.seed} {step}")
        draw = self.space.random_uniform if self.mode == "uniform" else self.space.random
        between = widest_first([draw(generator) for _ in range(self.n - 2)])
        return (self.space.largest, *between, self.space.smallest)

    def tell(self, widths: Widths, loss: float) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Json]:
        """The description of this sampler: it has no other state."""
        return {"sampler": "sandwich", "n": self.n, "mode": self.mode, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Json]) -> None:
        """Pass if ``state`` describes this sampler."""
        check_same_sampler(state, self.state_dict())
