"""Requests: which utterances must be forgotten, and which are their non-members."""
