"""Stands before the real one on a path where nothing may import it."""

raise ImportError("torch was imported where it must not be")
