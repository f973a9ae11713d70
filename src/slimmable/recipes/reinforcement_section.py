"""The section of a recipe that says how a policy learns."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field
from torch import nn

from slimmable.errors import RecipeError
from slimmable.models.policies import build_policy
from slimmable.recipes.facts import NetworkFacts
from slimmable.recipes.methods import Section
from slimmable.tasks import EnvironmentSettings, PpoSettings, ReinforcementLearningTask
from slimmable.train import Task


class PolicySettings(Section):
    """Which network acts.

    Attributes:
        name: ``mlp``, ``cnn`` or ``module:function``; see :func:`slimmable.models.policies.build_policy`.
        width: Multiplier of every channel count before conversion.
    """

    name: str = "mlp"
    width: float | None = Field(default=None, gt=0)


class ReinforcementLearningSettings(Section):
    """A policy that learns from what it does itself.

    Attributes:
        environment: Where it acts, and how it is judged.
        ppo: How it learns.
        network: Which network acts.
    """

    harmless: ClassVar[frozenset[str]] = frozenset({"environment.processes"})

    kind: Literal["reinforcement-learning"] = "reinforcement-learning"
    environment: EnvironmentSettings = EnvironmentSettings()
    ppo: PpoSettings = PpoSettings()
    network: PolicySettings = PolicySettings()

    @property
    def root(self) -> None:
        """None: a policy makes its data itself."""

    def at(self, root: str | Path) -> Self:
        """There are no data that could lie elsewhere.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(f"reinforcement learning reads no data; leave {str(root)!r} out")

    def build(self) -> ReinforcementLearningTask:
        """The task; an environment is made when its network or its first batch is asked for."""
        return ReinforcementLearningTask(
            self.environment, ppo=self.ppo, network=self.network.name, width=self.network.width
        )

    def facts(self, task: Task) -> NetworkFacts:
        """The size of an observation, and the actions' names."""
        assert isinstance(task, ReinforcementLearningTask)
        observation, actions = task.spaces
        return NetworkFacts(input_size=observation, classes=actions)

    def plain_network(self, facts: NetworkFacts) -> nn.Module:
        """A network with an output for every action."""
        return build_policy(
            self.network.name, observation=facts.input_size, actions=len(facts.classes), width=self.network.width
        )

    def preprocessing(self, facts: NetworkFacts) -> None:
        """None: observations as the environment gives them; frames from 0 to 255."""
