"""``python -m slimmable.cli``."""

import sys

from slimmable.cli.main import main

sys.exit(main())
