"""Corpora, their recordings, splits and requests, and the batches made of them."""
