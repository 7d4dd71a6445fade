"""Corpora, one module each, with a function `index` that returns a table of utterances."""
