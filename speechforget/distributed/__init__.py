"""Several processes that build one artefact together."""
