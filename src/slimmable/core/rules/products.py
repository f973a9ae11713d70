"""Rules of products of tensors: matrix products, Einstein sums and attention."""

from __future__ import annotations

from slimmable.core.layout import Layout
from slimmable.core.operators import Axes, Operator, operator_rule


@operator_rule("aten.matmul", "aten.mm", "aten.bmm")
def matrix_product(op: Operator) -> Axes:
    """The contracted axes agree; batch axes broadcast."""
    second = "other" if op.value("other") is not None else "mat2"
    a, b = op.axes("self"), op.axes(second)
    op.unify(a[-1], b[max(len(b) - 2, 0)])
    if min(len(a), len(b)) > 2:
        op.contracts(a[-1])
    rows, columns = a[:-1][-1:], b[-1:] if len(b) > 1 else ()
    batch = op.broadcast([a[:-2], b[:-2]], op.output_shape[: max(len(a), len(b)) - 2])
    op.count_macs(1, *batch, *rows, *columns, a[-1])
    return (*batch, *rows, *columns)


@operator_rule("aten.addmm", "aten.baddbmm")
def matrix_product_with_sum(op: Operator) -> Axes:
    """A matrix product, and an element-wise sum with the first argument."""
    first, second = ("mat1", "mat2") if op.value("mat1") is not None else ("batch1", "batch2")
    a, b = op.axes(first), op.axes(second)
    op.unify(a[-1], b[-2])
    product = (*op.broadcast([a[:-2], b[:-2]], op.output_shape[:-2]), a[-2], b[-1])
    op.count_macs(1, *product, a[-1])
    return op.broadcast([product, op.axes("self")], op.output_shape)


@operator_rule("aten.einsum")
def einstein_sum(op: Operator) -> Axes:
    """Axes of one letter agree; letters that the result lacks are summed over."""
    inputs, _, result = str(op.value("equation")).replace(" ", "").partition("->")
    operands = op.list_of_axes("tensors")
    terms = [_letters(term, len(axes)) for term, axes in zip(inputs.split(","), operands, strict=True)]
    met = [
        (letter, layout)
        for term, axes in zip(terms, operands, strict=True)
        for letter, layout in zip(term, axes, strict=True)
    ]
    if not result and "->" not in str(op.value("equation")):
        names = [letter for letter, _ in met]
        result = "".join(sorted(letter for letter in set(names) if names.count(letter) == 1))
    letters: dict[str, Layout] = {}
    for letter, layout in met:
        known = letters.setdefault(letter, layout)
        if op.size(known) == op.size(layout):
            op.unify(known, layout)
        elif op.size(known) == 1:  # stretched
            letters[letter] = layout
    kept = _letters(result, len(op.output_shape))
    if len(operands) == 2:
        for letter in set(terms[0]) & set(terms[1]) - set(kept):
            op.contracts(letters[letter])
        op.count_macs(1, *letters.values())
    return tuple(letters[letter] for letter in kept)


def _letters(term: str, rank: int) -> list[str]:
    """A name for each axis of an operand: its letter; those of an ellipsis are counted from the right."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f".{place}" for place in range(hidden, 0, -1)), *after]


@operator_rule("aten.scaled_dot_product_attention")
def attention(op: Operator) -> Axes:
    """Heads and the width of the values may vary; the width of query and key sets the softmax's scale and may not."""
    query, key, value = op.axes("query"), op.axes("key"), op.axes("value")
    op.pin([query[-1], key[-1]], "the width of a head sets the scale of the attention")
    op.unify(key[-2], value[-2])
    if op.value("enable_gqa"):
        key, value = _repeated(op, query, key), _repeated(op, query, value)
    batch = op.broadcast([query[:-2], key[:-2], value[:-2]], op.output_shape[:-2])
    if op.value("is_causal"):
        for layout in (query[-2], key[-2]):
            op.order_matters(layout, "positions see those before them")
    if op.value("dropout_p") and not op.training:
        for layout in (*batch, query[-2], key[-2]):
            op.order_matters(layout, "positions meet random draws, each its own")
    if mask := op.axes("attn_mask"):
        scores = (*op.output_shape[:-1], op.shape("key")[-2])
        op.broadcast([mask, (*batch, query[-2], key[-2])], scores)
    op.count_macs(1, *batch, query[-2], key[-2], query[-1])
    op.count_macs(1, *batch, query[-2], key[-2], value[-1])
    return (*batch, query[-2], value[-1])


def _repeated(op: Operator, query: Axes, shared: Axes) -> Axes:
    """Keys or values that runs of the queries' heads share, as many as there are queries."""
    runs = op.size(query[-3]) // op.size(shared[-3])
    if runs > 1:
        op.unify(query[-3], op.scale(shared[-3], runs))
    return (*shared[:-3], query[-3], *shared[-2:])
