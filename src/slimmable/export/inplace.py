"""Operators of a graph that may write into what they read, for nobody reads it afterwards.

A network's code seldom says so where it could. A new tensor costs more than its arithmetic: its pages must be made and
cleared, and it takes the place of others in the caches. Element by element the numbers are the same.
"""

from __future__ import annotations

from torch import Tensor, fx

from slimmable.core.trace import Call, Trace

_IN_PLACE = "add div elu gelu hardsigmoid hardswish hardtanh leaky_relu mish mul relu relu6 sigmoid silu sub tanh"
_ELEMENTWISE = frozenset(_IN_PLACE.split())
"""Operators that have a form in place, and yield each element from the elements at its own position."""

_MAKING = """
adaptive_avg_pool2d addmm avg_pool2d batch_norm bmm cat conv1d conv2d conv3d conv_transpose1d conv_transpose2d
conv_transpose3d embedding group_norm layer_norm linear matmul max_pool2d mean mm softmax sum upsample_bilinear2d
upsample_nearest2d
"""
_NEW = _ELEMENTWISE | frozenset(_MAKING.split())
"""Operators whose output is a tensor of its own, with no gaps. Any other may return what it was given."""


def in_place(trace: Trace) -> dict[fx.Node, str]:
    """Names of the forms in place of calls that can have one, by the call's node.

    A call can if its first argument has the output's shape and type, lies in memory that an operator of the graph made,
    and is not read afterwards, nor is anything that may share that memory.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from slimmable.core.trace import trace
        >>> net = nn.Sequential(nn.ReLU(), nn.Linear(4, 4), nn.ReLU()).eval()
        >>> list(in_place(trace(net, (torch.zeros(2, 4),))).values())
        ['aten.relu_.default']
    """
    last = {node: at for at, call in enumerate(trace.calls) for node in call.node.all_input_nodes}
    last |= dict.fromkeys(trace.outputs, len(trace.calls))
    memory: dict[fx.Node, frozenset[fx.Node]] = {each: frozenset({each}) for each in (*trace.parameters, *trace.inputs)}
    own: set[fx.Node] = set()
    found: dict[fx.Node, str] = {}
    for at, call in enumerate(trace.calls):
        node, sources = call.node, call.node.all_input_nodes
        packet = call.name.removeprefix("aten.").partition(".")[0]
        first = sources[0] if sources else None
        if packet in _ELEMENTWISE and first in own and _fits(call, first, memory):
            sharing = [each for each, its in memory.items() if its & memory[first]]
            if all(last.get(each, -1) <= at for each in sharing):
                found[node] = call.name.replace(packet, f"{packet}_", 1)
        writing = node in found or packet.removesuffix("_") in _ELEMENTWISE - {packet}
        if first is not None and writing:
            memory[node] = memory[first]
        elif packet in _NEW or not sources:
            memory[node] = frozenset({node})
        else:
            memory[node] = frozenset().union(*(memory[each] for each in sources))
        if packet in _NEW or (writing and first in own):
            own.add(node)
    return found


def _fits(call: Call, first: fx.Node, memory: dict[fx.Node, frozenset[fx.Node]]) -> bool:
    """Whether the output is like the first argument, and no other argument another view of its memory."""
    before, after = first.meta.get("val"), call.node.meta.get("val")
    others = [each for each in call.node.all_input_nodes if each is not first]
    alike = (
        call.node.args[:1] == (first,)
        and isinstance(before, Tensor)
        and isinstance(after, Tensor)
        and before.shape == after.shape
        and before.dtype == after.dtype
    )
    return alike and not any(memory[each] & memory[first] for each in others)
