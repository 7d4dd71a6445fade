"""Frontends and classifiers."""
