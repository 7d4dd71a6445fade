"""The training loop, its checkpoints, its cost, and the device it runs on."""
