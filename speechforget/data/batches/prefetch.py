"""Batches made while the last ones are being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items in the same order, up to `depth` of them made in advance by a thread; 0 is none."""
    if depth == 0:
        yield from items
        return
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting: deque[Future[tuple[Item, ...]]] = deque(thread.submit(_next, items) for _ in range(depth))
        while found := waiting.popleft().result():
            waiting.append(thread.submit(_next, items))
            yield found[0]


def _next(items: Iterator[Item]) -> tuple[Item, ...]:
    """One item, or none at the end."""
    for item in items:
        return (item,)
    return ()
