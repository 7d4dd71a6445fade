"""What every method is, and how it is run."""
