"""``python -m slimmable.runtime.server model.slim --latency 20ms``: as ``slimmable serve``, with fewer packages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from slimmable.errors import SlimmableError
from slimmable.runtime.server.options import add_options, run


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; 0 after an orderly end, 2 after an error, which is one line on standard error."""
    parser = argparse.ArgumentParser(prog="python -m slimmable.runtime.server", description=__doc__)
    add_options(parser)
    options = parser.parse_args(argv)
    try:
        return run(options)
    except (SlimmableError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2


if __name__ == "__main__":
    sys.exit(main())
