"""Comparisons for readers: terminal output, a picture, tables of many runs."""
