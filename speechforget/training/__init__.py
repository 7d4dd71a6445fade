"""The training loop, its checkpoints, its cost and its device."""
