"""Every error this library raises on purpose, in one tree.

::

    SlimmableError
    ├── WidthError (ValueError)               channels that do not fit a width space
    ├── ConversionError                       a network that cannot be made elastic
    ├── CalibrationError                      batch-norm statistics that are missing, stale or not finite
    ├── ExtractionError                       a sub-network that cannot be written as plain modules
    ├── CostError (ValueError)                a cost that has no formula, or cannot be measured
    ├── SearchError (ValueError)              a search that has no answer, or none that can be found exactly
    ├── TrainingError                         a run that cannot go on (a loss that is not finite)
    ├── CheckpointError                       a file that does not fit the network, or is damaged
    ├── ArtifactError                         an artifact that is damaged, or does not hold what was asked for
    ├── DeploymentError                       a runtime that cannot do what was asked
    ├── DataError                             data that are missing or malformed
    ├── RecipeError (ValueError)              an unknown key or a wrong value in a configuration
    └── MissingDependencyError (ImportError)  an optional package that is not installed

Each message says what was found, what was expected and how to cure it.
"""


class SlimmableError(Exception):
    """Base of every error raised by ``slimmable``."""


class WidthError(SlimmableError, ValueError):
    """Channels that do not fit a width space."""


class ConversionError(SlimmableError):
    """A network that cannot be made elastic."""


class CalibrationError(SlimmableError):
    """Batch-norm statistics that are missing, stale or not finite."""


class ExtractionError(SlimmableError):
    """A sub-network that cannot be written as plain modules."""


class CostError(SlimmableError, ValueError):
    """A cost that was asked for and has no formula, or cannot be measured."""


class SearchError(SlimmableError, ValueError):
    """A search that has no answer, or none that can be found exactly."""


class TrainingError(SlimmableError):
    """A run that cannot go on."""


class CheckpointError(SlimmableError):
    """A file that does not fit the network, or is damaged."""


class ArtifactError(SlimmableError):
    """An artifact that is damaged, or does not hold what was asked for."""


class DeploymentError(SlimmableError):
    """A runtime that cannot do what was asked."""


class DataError(SlimmableError):
    """Data that are missing or malformed."""


class RecipeError(SlimmableError, ValueError):
    """An unknown key or a wrong value in a configuration."""


class MissingDependencyError(SlimmableError, ImportError):
    """An optional package that is not installed."""
