"""Learning curves, kept in artefacts and mirrored to trackers."""
