"""Several processes that work on one artefact."""
