"""Losses of classification."""

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    r"""Cross-entropy against another network's prediction, temperature 1.

    .. math:: -\tfrac1B \sum_b \sum_k \mathrm{softmax}(t_b)_k \, \log \mathrm{softmax}(z_b)_k

    The sum runs over classes, the mean over the batch: a mean over classes as well would divide the signal by their
    number and leave in-place distillation without effect.

    Args:
        logits: :math:`z`, ``(B, K)``.
        target_logits: :math:`t`, ``(B, K)``; no gradient reaches it.

    Returns:
        A scalar, at least the entropy of the target.

    References:
        Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, Section 3.4.

    >>> import torch
    >>> even = torch.zeros(2, 4)
    >>> torch.isclose(soft_cross_entropy(even, even), torch.tensor(4.0).log()).item()
    True
    """
    return F.cross_entropy(logits, target_logits.detach().softmax(dim=1))
