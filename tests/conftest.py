"""What all tests share."""

import os

import torch
from hypothesis import settings

# Time limits on single examples say nothing of the code on a loaded machine. In CI the examples are always the same.
settings.register_profile("slimmable", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
settings.load_profile("slimmable")

# Tests are small, and several run side by side: more threads than cores would make each of them crawl.
torch.set_num_threads(1)
