"""Networks that act: from an observation to a preference for every action, and to what it is worth."""

from collections.abc import Sequence

from torch import Tensor, nn

from slimmable.core.space import make_divisible
from slimmable.errors import RecipeError
from slimmable.models.zoo import build_model

ROOT_OF_TWO = 2**0.5


class FramePolicy(nn.Module):
    """Three convolutions, one linear layer, and two heads behind it."""

    def __init__(self, frames: int, actions: int, *, width: float) -> None:
        super().__init__()
        first, second, third, last = (make_divisible(base * width, 8) for base in (32, 64, 32, 512))
        self.conv1 = nn.Conv2d(frames, first, 8, stride=4)
        self.conv2 = nn.Conv2d(first, second, 4, stride=2)
        self.conv3 = nn.Conv2d(second, third, 3, stride=1)
        self.fc = nn.Linear(49 * third, last)
        self.relu = nn.ReLU()
        self.actor = nn.Linear(last, actions)
        self.critic = nn.Linear(last, 1)
        _initialise(self, actor=self.actor, critic=self.critic)

    def forward(self, frames_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, actions)`` and values ``(B, 1)`` of frames ``(B, C, 84, 84)`` with values from 0 to 255."""
        x = self.relu(self.conv1(frames_BCHW / 255))
        x = self.relu(self.conv3(self.relu(self.conv2(x))))
        x = self.relu(self.fc(x.flatten(1)))
        return self.actor(x), self.critic(x)


class VectorPolicy(nn.Module):
    """Two towers of two layers with hyperbolic tangents: one acts, one judges."""

    def __init__(self, numbers: int, actions: int, *, width: float) -> None:
        super().__init__()
        hidden = make_divisible(64 * width, 8)
        self.acting = nn.Sequential(nn.Linear(numbers, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.judging = nn.Sequential(nn.Linear(numbers, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.actor = nn.Linear(hidden, actions)
        self.critic = nn.Linear(hidden, 1)
        _initialise(self, actor=self.actor, critic=self.critic)

    def forward(self, x_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, actions)`` and values ``(B, 1)`` of observations ``(B, N)``."""
        return self.actor(self.acting(x_BN)), self.critic(self.judging(x_BN))


def frame_policy(actions: int, *, frames: int = 4, width: float = 1.0) -> nn.Module:
    r"""The actor-critic network for Atari: convolutions of 32, 64 and 32 channels, a linear layer of 512, two heads.

    Kernels are 8, 4 and 3, strides 4, 2 and 1. With :math:`a, b, c, d` = 32, 64, 32, 512 times ``width``, rounded to
    multiples of 8, and :math:`f` frames, one observation costs

    .. math:: 400 \cdot 64 f a + 81 \cdot 16 a b + 49 (9 b c + c d) + d (\text{actions} + 1)

    multiply-accumulates. Weights are orthogonal, as in implementations of [2], so that every
    action is about as likely as any other first.

    Args:
        actions: How many actions there are.
        frames: Frames in an observation, one behind the other.
        width: Multiplier of every channel count.

    Returns:
        Network from frames ``(B, frames, 84, 84)`` of floating-point numbers from 0 to 255, which it scales itself, to
        logits ``(B, actions)`` and values ``(B, 1)``.

    References:
        [1] Yu, Huang. Universally Slimmable Networks and Improved Training Techniques. ICCV 2019, section 5.1.
        [2] Schulman, Wolski, Dhariwal, Radford, Klimov. Proximal Policy Optimization Algorithms. arXiv 1707.06347.

    >>> sum(each.numel() for each in frame_policy(4).parameters() if each.dim() == 4)
    59392
    >>> 64 * 4 * 32 + 16 * 32 * 64 + 9 * 64 * 32
    59392
    """
    return FramePolicy(frames, actions, width=width)


def vector_policy(actions: int, *, numbers: int, width: float = 1.0) -> nn.Module:
    r"""An actor-critic network for observations of a few numbers: two towers of two layers of 64, two heads.

    With :math:`h` = 64 times ``width``, rounded to a multiple of 8, and :math:`n` numbers, one observation costs
    :math:`2 h (n + h) + h (\text{actions} + 1)` multiply-accumulates.

    Args:
        actions: How many actions there are.
        numbers: Numbers in an observation.
        width: Multiplier of every layer's size.

    Returns:
        Network from ``(B, numbers)`` to logits ``(B, actions)`` and values ``(B, 1)``.

    References:
        Schulman, Wolski, Dhariwal, Radford, Klimov. Proximal Policy Optimization Algorithms. arXiv 1707.06347, section
        6.1.

    >>> sum(each.numel() for each in vector_policy(2, numbers=4, width=0.5).parameters() if each.dim() == 2)
    2400
    """
    return VectorPolicy(numbers, actions, width=width)


def build_policy(name: str, *, observation: Sequence[int], actions: int, width: float | None = None) -> nn.Module:
    """The actor-critic network called ``name``.

    Args:
        name: ``cnn``, see :func:`frame_policy`; ``mlp``, see :func:`vector_policy`; or ``module:function`` for a
            function of the user's own, which takes ``num_classes``, the number of actions.
        observation: Size of one observation, channels first.
        actions: How many actions there are.
        width: Multiplier of every channel count.

    Returns:
        Network from observations ``(B, ...)`` to logits ``(B, actions)`` and values ``(B, 1)``, freshly initialised.

    Raises:
        RecipeError: Nothing has that name, or it does not suit the observations.

    >>> build_policy("mlp", observation=(4,), actions=2).actor.out_features
    2
    """
    if name == "cnn":
        if len(observation) != 3 or tuple(observation[1:]) != (84, 84):
            raise RecipeError(
                f"the policy cnn sees frames of 84x84 pixels; these observations are {_size(observation)}"
            )
        return frame_policy(actions, frames=observation[0], width=1.0 if width is None else width)
    if name == "mlp":
        if len(observation) != 1:
            raise RecipeError(f"the policy mlp sees a row of numbers; these observations are {_size(observation)}")
        return vector_policy(actions, numbers=observation[0], width=1.0 if width is None else width)
    if ":" not in name:
        raise RecipeError(f"there is no policy {name!r}; expected cnn, mlp or module:function")
    return build_model(name, num_classes=actions, width=width).model


def _size(observation: Sequence[int]) -> str:
    return "x".join(map(str, observation)) or "single numbers"


def _initialise(net: nn.Module, *, actor: nn.Module, critic: nn.Module) -> None:
    """Orthogonal weights; small ones before the actions, which make them alike, and biases of zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = {id(actor): 0.01, id(critic): 1.0}.get(id(module), ROOT_OF_TWO)
            nn.init.orthogonal_(module.weight, gain=gain)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
