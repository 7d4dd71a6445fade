"""Unlearning methods: one file, one class, one yaml each."""
