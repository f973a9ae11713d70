"""From an artifact to a running network, without torch: reading, backends, and the width that meets a budget.

::

    from slimmable.runtime import Runtime

    runtime = Runtime("model.slim")            # ONNX Runtime; backend= names another
    runtime.set("0.5")
    scores, = runtime.run(images)              # numpy arrays in, numpy arrays out

What is named here loads when it is first used; nothing imports torch, but the backend that is made of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimmable.runtime.artifact import Artifact
    from slimmable.runtime.controller import AdaptiveModel
    from slimmable.runtime.engine import Runtime

_HOMES = {
    "AdaptiveModel": "slimmable.runtime.controller",
    "Artifact": "slimmable.runtime.artifact",
    "Runtime": "slimmable.runtime.engine",
}

__all__ = ["AdaptiveModel", "Artifact", "Runtime"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'slimmable.runtime' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
