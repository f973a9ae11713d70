"""Many widths on one batch, computing what they share once.

Two widths that agree in their first groups compute the same until the first layer in which they differ. Run in the
order of their channels, each needs only what lies behind the point where it leaves the one before: the walk of a prefix
tree, with the activations of one forward pass in memory. Results are those of separate passes to the bit, since a value
is reused only where its operator, its other arguments and all its inputs are the very same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from slimmable.core.space import Widths

Result = TypeVar("Result")


def in_prefix_order(widths_list: Iterable[Widths]) -> list[Widths]:
    """Each of the widths once, so that neighbours agree in as many of the first groups as possible."""
    return sorted(dict.fromkeys(widths_list), key=lambda widths: widths.channels)


class SharedPrefix(TorchDispatchMode):
    """A context in which forward passes without gradients reuse what the pass before has computed.

    Operators that draw random numbers, or write into tensors from outside the pass, are always run. One that writes
    into a value of the pass is run once: a pass that reuses it finds the result there already. Should such a pass need
    the value as it was before, everything is computed anew.

    Attributes:
        computed: Operators that were run.
        reused: Operators whose result was there.

    >>> import torch
    >>> layer = torch.nn.Linear(4, 4)
    >>> images = torch.ones(2, 4)
    >>> with torch.no_grad(), SharedPrefix() as prefix:
    ...     first, second = (prefix.run(lambda: layer(images)) for _ in range(2))
    >>> torch.equal(first, second), prefix.computed, prefix.reused
    (True, 2, 2)
    """

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0
        self.reused = 0
        self._known: list[tuple[Any, Any]] = []
        self._place = 0
        # Times that values were written to: as the present pass sees them, as they really are, and from outside.
        self._seen: dict[int, int] = {}
        self._real: dict[int, int] = {}
        self._outside: dict[int, int] = {}
        self._unlike = itertools.count(1 << 32)  # for values that are like none before

    def run(self, forward: Callable[[], Result]) -> Result:
        """What ``forward()`` returns."""
        self._place, self._seen = 0, {}
        try:
            return forward()
        except _Overwritten:
            self._known.clear()
            self._place, self._seen = 0, {}
            return forward()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The result of an operator, known or computed."""
        kwargs = kwargs or {}
        leaves, structure = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        written = _written(func, args, kwargs)
        foreign = [storage for storage in written if storage not in self._seen]
        if foreign or torch.Tag.nondeterministic_seeded in func.tags:
            output = func(*args, **kwargs)
            for storage in foreign:
                self._outside[storage] = self._outside.get(storage, 0) + 1
            made = {_storage(leaf) for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)}
            for storage in made.union(written).difference(foreign):
                self._seen[storage] = self._real[storage] = next(self._unlike)
            return output
        key = (func, structure, tuple(self._named(leaf) for leaf in leaves))
        known = self._known[self._place] if self._place < len(self._known) else None
        if known is not None and known[0] == key:
            self.reused += 1
            output = _again(known[1]) if not written else _target(func, args, kwargs)
        else:
            if any(self._seen.get(at, 0) != self._real.get(at, 0) for at in map(_storage, tensors) if at in self._seen):
                raise _Overwritten
            del self._known[self._place :]
            output = func(*args, **kwargs)
            self.computed += 1
            self._known.append((key, output))
        self._place += 1
        self._note(output, {_storage(tensor) for tensor in tensors}, written, fresh=known is None or known[0] != key)
        return output

    def _note(self, output: Any, read: set[int], written: Sequence[int], *, fresh: bool) -> None:
        """Keep account of who was made and who was written to."""
        for leaf in tree_flatten(output)[0]:
            if isinstance(leaf, Tensor) and _storage(leaf) not in read:
                self._seen[_storage(leaf)] = 0
                if fresh:
                    self._real[_storage(leaf)] = 0
        for storage in written:
            self._seen[storage] += 1
            if fresh:
                self._real[storage] = self._seen[storage]

    def _named(self, leaf: Any) -> Any:
        """What an argument is compared by: a tensor by where it lies and how often it was written to."""
        if not isinstance(leaf, Tensor):
            return leaf
        at = _storage(leaf)
        times = self._seen[at] if at in self._seen else self._outside.get(at, 0)
        return (at, leaf.storage_offset(), leaf.shape, leaf.stride(), leaf.dtype, times)


class _Overwritten(Exception):
    """A value that is needed was written over by an operator of the pass before."""


def _again(output: Any) -> Any:
    """The same values in new tensors: one that left the dispatcher belongs to whoever asked for it."""
    return tree_map_only(Tensor, torch.ops.aten.alias.default, output)


def _target(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What an operator that writes returns: the arguments that it writes to."""
    targets = _targets(func, args, kwargs)
    return targets[0] if len(func._schema.returns) == 1 else tuple(targets[: len(func._schema.returns)])


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
    """Where an operator writes, by its schema."""
    return [_storage(leaf) for leaf in tree_flatten(_targets(func, args, kwargs))[0] if isinstance(leaf, Tensor)]


def _targets(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments that an operator writes to."""
    if not func._schema.is_mutable:
        return []
    given = {**dict(zip((each.name for each in func._schema.arguments), args, strict=False)), **kwargs}
    written = [each for each in func._schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    return [given[each.name] for each in written if each.name in given]
