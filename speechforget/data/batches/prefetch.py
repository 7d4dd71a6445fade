"""Prepare batches in a thread while earlier ones are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """Yield the same items in the same order; a thread prepares up to `depth` of them in advance (0: no thread)."""
    if depth == 0:
        yield from items
        return
    with ThreadPoolExecutor(1, "prefetch") as thread:
        waiting: deque[Future[tuple[Item, ...]]] = deque(thread.submit(_next, items) for _ in range(depth))
        while found := waiting.popleft().result():
            waiting.append(thread.submit(_next, items))
            yield found[0]


def _next(items: Iterator[Item]) -> tuple[Item, ...]:
    """Return the next item as a tuple of one, or an empty tuple at the end."""
    for item in items:
        return (item,)
    return ()
