"""Operators that a graph from a file may call: tensor mathematics, by name; nothing that reads files or raw memory."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import torch

Function = Callable[..., Any]

_NN: Any = torch._C._nn  # pyright: ignore[reportAttributeAccessIssue]

_NAMES = """
abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv alias all alpha_dropout amax amin aminmax
any arange argmax argmin argsort asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d
avg_pool3d baddbmm batch_norm bilinear bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift
bitwise_xor bmm broadcast_tensors broadcast_to bucketize cat cdist ceil celu channel_shuffle chunk clamp clamp_max
clamp_min clip clone column_stack concat concatenate constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d
conv_transpose2d conv_transpose3d convolution copy copysign cos cosh cosine_similarity cross cummax cummin cumprod
cumsum deg2rad detach diag diag_embed diagonal diff digamma div divide dot dropout einsum elu embedding eq erf erfc
erfinv exp exp2 expand expand_as expm1 eye feature_alpha_dropout feature_dropout fill flatten flip float_power floor
floor_divide fmax fmin fmod frac full full_like gather ge gelu glu greater greater_equal grid_sampler group_norm gru gt
hardshrink hardsigmoid hardswish hardtanh heaviside hstack hypot i0 im2col index index_add index_copy index_fill
index_put index_select inner instance_norm isclose isfinite isinf isnan isneginf isposinf kron layer_norm le leaky_relu
lerp less less_equal lgamma lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log log10 log1p log2
log_sigmoid log_softmax logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit logsumexp lstm lt mT
masked_fill matmul max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices maximum mean median meshgrid min minimum mish mm movedim mul multiply mv nan_to_num narrow ne
neg negative new_full new_ones new_zeros norm not_equal numpy_T one_hot ones ones_like outer pad permute pixel_shuffle
pixel_unshuffle polar positive pow prelu prod quantile rad2deg rand_like randn_like ravel reciprocal reflection_pad1d
reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave replication_pad1d
replication_pad2d replication_pad3d reshape reshape_as rms_norm rnn_relu rnn_tanh roll rot90 round rsqrt rsub
scalar_tensor scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_scatter selu
sgn sigmoid sign silu sin sinc sinh slice slice_scatter softmax softplus softshrink sort split split_with_sizes sqrt
square squeeze stack std std_mean sub subtract sum swapaxes swapdims t take_along_dim tan tanh tensor_split tensordot
threshold tile to topk trace transpose tril tril_indices triu triu_indices true_divide trunc type_as unbind unflatten
unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d var var_mean view
view_as where xlogy zero zeros zeros_like

_adaptive_avg_pool2d _convolution _log_softmax _prelu_kernel _reshape_alias _softmax _to_copy _unsafe_view
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm _weight_norm_interface
"""

ALLOWED = frozenset(_NAMES.split())
"""Names without overload; one that ends with an underscore is allowed where it is allowed without."""

_SHARING = frozenset(
    name for name in ALLOWED if name.startswith(("atleast", "broadcast_t", "einsum", "meshgrid")) or "dropout" in name
)
"""Operators that may return what they were given, though their declarations do not say so."""

_FUNCTIONS: dict[str, Function] = {
    "aten.add.Tensor": operator.add,
    "aten.add_.Tensor": operator.iadd,
    "aten.mul.Tensor": operator.mul,
    "aten.mul_.Tensor": operator.imul,
    "aten.sub.Tensor": operator.sub,
    "aten.div.Tensor": operator.truediv,
    "aten.conv1d.default": torch.conv1d,
    "aten.conv2d.default": torch.conv2d,
    "aten.conv3d.default": torch.conv3d,
    "aten.conv_transpose2d.input": torch.conv_transpose2d,
    "aten.linear.default": _NN.linear,
    "aten.batch_norm.default": torch.batch_norm,
    "aten.layer_norm.default": torch.layer_norm,
    "aten.group_norm.default": torch.group_norm,
    "aten.relu.default": torch.relu,
    "aten.relu_.default": torch.relu_,
    "aten.hardtanh.default": _NN.hardtanh,
    "aten.hardtanh_.default": _NN.hardtanh_,
    "aten.leaky_relu.default": _NN.leaky_relu,
    "aten.silu.default": _NN.silu,
    "aten.silu_.default": _NN.silu_,
    "aten.hardswish.default": _NN.hardswish,
    "aten.hardswish_.default": _NN.hardswish_,
    "aten.hardsigmoid.default": _NN.hardsigmoid,
    "aten.sigmoid.default": torch.sigmoid,
    "aten.max_pool2d.default": torch.max_pool2d,
    "aten.avg_pool2d.default": _NN.avg_pool2d,
    "aten.adaptive_avg_pool2d.default": _NN.adaptive_avg_pool2d,
    "aten.flatten.using_ints": torch.flatten,
    "aten.reshape.default": torch.reshape,
    "aten.view.default": torch.reshape,
    "aten._unsafe_view.default": torch.reshape,
    "aten.permute.default": torch.permute,
    "aten.transpose.int": torch.transpose,
    "aten.cat.default": torch.cat,
    "aten.matmul.default": torch.matmul,
    "aten.softmax.int": torch.softmax,
    "aten.mean.dim": torch.mean,
}
"""What does the same with less overhead: the calls of ``torch.nn`` itself. A tensor that was contiguous where the
graph was traced need not be in ``channels_last``: it is reshaped there, which is a view wherever there can be one."""


def resolved(name: str) -> torch._ops.OpOverload:
    """The operator called ``name``.

    Raises:
        ValueError: There is none of the name, or none that is allowed.

    >>> resolved("aten.relu_.default")
    <OpOverload(op='aten.relu_', overload='default')>
    >>> resolved("aten.from_file.default")
    Traceback (most recent call last):
    ValueError: the operator 'aten.from_file.default' is not allowed in a graph
    """
    if found := re.fullmatch(r"aten\.(\w+)\.(\w+)", name):
        packet, overload = found.groups()
        if packet in ALLOWED or packet.removesuffix("_") in ALLOWED:
            each = getattr(getattr(torch.ops.aten, packet, None), overload, None)
            if isinstance(each, torch._ops.OpOverload) and _computes(each):
                return each
    raise ValueError(f"the operator {name!r} is not allowed in a graph")


def _computes(function: torch._ops.OpOverload) -> bool:
    """Whether an operator returns tensors and writes into none but its first argument."""
    schema = function._schema
    its = [str(each.type) for each in schema.returns]
    written = [each.name for each in schema.arguments if each.alias_info is not None and each.alias_info.is_write]
    return bool(its) and set(its) <= {"Tensor", "List[Tensor]"} and set(written) <= {"self", "input"}


def function_of(function: torch._ops.OpOverload, *, positional: int, named: int) -> Function:
    """What to call for an operator that is given its first arguments by place and others by name."""
    short = _FUNCTIONS.get(str(function), function)
    plain = short.__module__ == "_operator"
    return function if named or (plain and positional != 2) else short


def shared(function: torch._ops.OpOverload) -> tuple[list[str], list[str]]:
    """Names of the arguments that an operator's output may share memory with, and of those it writes into.

    >>> shared(torch.ops.aten.relu_.default), shared(torch.ops.aten.flatten.using_ints)
    ((['self'], ['self']), (['self'], []))
    """
    schema = function._schema
    given = [each for each in schema.arguments if each.alias_info is not None]
    passed = [each.name for each in given]
    if schema.name.removeprefix("aten::") in _SHARING:
        passed = [each.name for each in schema.arguments if "Tensor" in str(each.type)]
    return passed, [each.name for each in given if each.alias_info is not None and each.alias_info.is_write]
