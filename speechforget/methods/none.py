"""Return the original unchanged: the baseline of every method, and the zero of every cost."""

from __future__ import annotations

from speechforget.methods.base.method import Method


class Nothing(Method):
    """Make no pass, use no data and change no weight: theta_u = theta_o."""

    needs = frozenset()
