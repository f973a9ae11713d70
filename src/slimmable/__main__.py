"""``python -m slimmable`` is ``slimmable``."""

import sys

from slimmable.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
