"""Learning curves: kept in artefacts, and mirrored to W&B, TensorBoard or CSV."""
