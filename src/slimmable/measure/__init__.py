"""What a width is worth: calibrated statistics and figures of merit."""
