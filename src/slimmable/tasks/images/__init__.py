"""Labelled images: where they come from, how they are split, decoded, augmented and fed."""
