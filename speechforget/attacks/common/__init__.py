"""What several attacks share: features of layers, and cross-fitted probes."""
