"""Corpora, recordings, splits, requests and batches."""
