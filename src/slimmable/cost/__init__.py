"""What a width costs, with its unit."""
