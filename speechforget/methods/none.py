"""No unlearning: the original as it is. What every method must beat, and the zero of every cost."""

from __future__ import annotations

from speechforget.methods.base.method import Method


class Nothing(Method):
    """theta_u = theta_o: no pass, no data, no change."""

    needs = frozenset()
