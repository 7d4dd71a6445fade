"""What a configuration means: validation, tuned numbers, what enters a key."""
