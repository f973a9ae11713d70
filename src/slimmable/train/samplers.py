"""Who chooses the widths of a training step: the one thing in which the methods differ.

Draws are functions of the seed and the step, not of a generator that runs along: a resumed run, and every process of
a distributed one, meets the same widths without exchanging state.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from slimmable.core.space import Widths, WidthSpace
from slimmable.errors import CheckpointError, RecipeError, WidthError
from slimmable.record import Json


class WidthSampler(Protocol):
    """Chooses the widths of every step, and may learn from their losses."""

    @property
    def fixed(self) -> tuple[Widths, ...]:
        """Widths that belong to every step, widest first: those whose accuracy training can follow."""
        ...

    def ask(self, step: int) -> Sequence[Widths]:
        """Widths of step ``step`` (from 0), widest first: the first is the teacher of the others."""
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

    def ask(self, step: int) -> Sequence[Widths]:
        """The step's widths, widest first."""
        return self.fixed

    def tell(self, widths: Widths, loss: float) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Json]:
        """The description of this sampler: it has no other state."""
        return {"sampler": "switch_list", "switches": [dict(widths.to_json()) for widths in self.fixed]}

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

    def ask(self, step: int) -> Sequence[Widths]:
        """The step's widths, widest first."""
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

    def ask(self, step: int) -> Sequence[Widths]:
        """The step's widths, widest first."""
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


def widest_first(widths_list: Sequence[Widths]) -> tuple[Widths, ...]:
    """The widths by their total number of channels, falling; equal totals keep their order."""
    return tuple(sorted(widths_list, key=lambda widths: -sum(widths.channels)))


def check_same_sampler(found: Mapping[str, Json], expected: Mapping[str, Json]) -> None:
    """Both descriptions agree on every entry of ``expected``.

    Raises:
        CheckpointError: The first entry that differs.
    """
    for key, value in expected.items():
        if key not in found or found[key] != value:
            raise CheckpointError(
                f"the checkpoint's sampler has {key}={found.get(key)!r}, this one {key}={value!r}; "
                "resume with the sampler the run was started with, or start in another folder"
            )
