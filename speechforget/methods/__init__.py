"""Unlearning methods: one file, one class and one yaml each."""
