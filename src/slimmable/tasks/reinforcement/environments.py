"""Environments side by side, from stable-baselines3's parts."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from slimmable.errors import MissingDependencyError, RecipeError
from slimmable.tasks.reinforcement.settings import EnvironmentSettings

try:
    import gymnasium
    from stable_baselines3.common.env_util import make_atari_env, make_vec_env
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecTransposeImage
except ImportError as missing:
    raise MissingDependencyError(
        f"reinforcement learning needs {missing.name}, which is not installed: "
        "pip install 'slimmable[reinforcement-learning]'"
    ) from missing

STACK = 4
"""Frames in an observation of an Atari game."""


class Spaces(NamedTuple):
    """Size of an observation, channels first, and what the actions are called."""

    observation: tuple[int, ...]
    actions: tuple[str, ...]


def open_environments(settings: EnvironmentSettings, *, count: int, seed: int) -> VecEnv:
    """Environments that run side by side; the first reset begins number ``i`` with ``seed + i``.

    Returns:
        What stable-baselines3 steps; frames have their channels first. To be closed.

    Raises:
        RecipeError: There is no such environment, or it cannot be made.
        MissingDependencyError: Atari games are not installed.
    """
    kind = SubprocVecEnv if settings.processes and count > 1 else DummyVecEnv
    make: Callable[..., Any] = partial(_make, settings.name, atari=settings.atari)
    if not settings.atari:
        made = make_vec_env(make, n_envs=count, seed=seed, vec_env_cls=kind)
        # PPO would turn images by itself, but only those that it learns from.
        return VecTransposeImage(made) if _has_channels_last(made.observation_space) else made
    games = make_atari_env(make, n_envs=count, seed=seed, vec_env_cls=kind)
    return VecTransposeImage(VecFrameStack(games, STACK))


def spaces_of(settings: EnvironmentSettings) -> Spaces:
    """What is seen and what can be done in an environment.

    Raises:
        RecipeError: There is no such environment, it cannot be made, or it is not one of finitely many actions and
            observations in an array.
        MissingDependencyError: Atari games are not installed.

    >>> spaces_of(EnvironmentSettings(name="CartPole-v1"))
    Spaces(observation=(4,), actions=('0', '1'))
    """
    environments = open_environments(settings, count=1, seed=0)
    try:
        seen, done = environments.observation_space, environments.action_space
        if not isinstance(done, gymnasium.spaces.Discrete) or int(done.start) != 0:
            raise RecipeError(f"{settings.name} has the actions {done}; expected finitely many, from 0: Discrete(n)")
        if not isinstance(seen, gymnasium.spaces.Box):
            raise RecipeError(f"{settings.name} has the observations {seen}; expected an array: Box(...)")
        if settings.atari:
            [names] = environments.env_method("get_action_meanings")
        else:
            names = map(str, range(int(done.n)))
        return Spaces(tuple(seen.shape), tuple(names))
    finally:
        environments.close()


def _has_channels_last(seen: Any) -> bool:
    return is_image_space(seen) and not is_image_space_channels_first(seen)


def _make(name: str, *, atari: bool) -> gymnasium.Env[Any, Any]:
    """One environment; in a process of its own too, where nothing has been registered yet."""
    if atari:
        try:
            games = importlib.import_module("ale_py")
        except ImportError as error:
            raise MissingDependencyError(
                "Atari games need ale-py, which is not installed: pip install 'slimmable[atari]'"
            ) from error
        games.ALEInterface.setLoggerMode(games.LoggerMode.Error)  # else every game begins with a line about itself
        gymnasium.register_envs(games)
    try:
        made = gymnasium.make(name)
    except gymnasium.error.Error as error:
        problem = str(error).strip("`")
        raise RecipeError(f"the environment {name!r} cannot be made: {problem}") from error
    skipped = getattr(made.unwrapped, "_frameskip", 1)
    if atari and skipped != 1:
        made.close()
        raise RecipeError(
            f"{name} skips frames itself ({skipped}), beside the four that the wrappers skip; expected an environment "
            "that does not, such as BreakoutNoFrameskip-v4"
        )
    return made
