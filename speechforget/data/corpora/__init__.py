"""Corpora, one module each: an index function that returns a table of utterances."""
