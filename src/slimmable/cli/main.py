"""Entry point of ``slimmable``."""

import sys
from collections.abc import Sequence
from importlib import import_module

from slimmable.errors import SlimmableError

INTERRUPTED = 130
WRONG = 2

_PACKAGES = {
    "jsonargparse": "cli",
    "onnxruntime": "runtime",
    "PIL": "vision",
    "pydantic": "train",
    "rich": "cli",
    "sklearn": "train",
    "torch": "torch",
    "yaml": "train",
}
"""Packages that commands import, by the extra of this library that brings them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; None takes those of the process.

    Returns:
        0; 2 after an error, which is one line on standard error; 130 after Ctrl-C.
    """
    try:
        from slimmable.cli.parser import parse

        command, options = parse(sys.argv[1:] if argv is None else argv)
        return import_module(f"slimmable.cli.commands.{command}").command(options)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else WRONG
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        return _failed(f"this needs {package}, which is not installed: pip install 'slimmable[{_PACKAGES[package]}]'")
    except (SlimmableError, OSError) as error:
        return _failed(str(error))


def _failed(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return WRONG


if __name__ == "__main__":
    sys.exit(main())
