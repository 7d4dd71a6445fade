"""Metrics: pure functions of score tables."""
