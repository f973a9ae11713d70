"""The parts of reinforcement learning: environments, roll-outs, losses, games that are judged."""
