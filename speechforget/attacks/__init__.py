"""Attacks on models: what a model still holds of a request beside its answers. One file for each attack."""
