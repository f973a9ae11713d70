"""Pairs of a small image and the large one it came from: where they come from, how they are split, cut and fed."""
