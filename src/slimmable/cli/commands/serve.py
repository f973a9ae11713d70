"""``slimmable serve``."""

from slimmable.cli.parser import Options
from slimmable.runtime.server.options import run


def command(options: Options) -> int:
    """Answer requests over HTTP until a signal comes."""
    return run(options)
