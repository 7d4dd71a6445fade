"""The stages of a run, one module each, and the modules that they share."""
