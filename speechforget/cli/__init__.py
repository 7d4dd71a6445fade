"""Entry points: one run, a sweep, a plan, the store."""
