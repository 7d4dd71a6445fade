"""The stages of a run, one module each, and what they share."""
