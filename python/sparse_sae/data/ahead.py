"""The next item is made while this one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_END: Any = object()


class Ahead(Iterator[T], Generic[T]):
    """An iterator whose next item is taken from another in a thread of its own, never more than one ahead.

    What the other raises is raised where its item would have come. Used as a context manager, it waits at the end
    for the item that is being made and closes the other iterator, so that no thread is left behind.

    >>> with Ahead(iter([1, 2, 3])) as numbers:
    ...     list(numbers)
    [1, 2, 3]
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sparse_sae-rows")
        self._coming: Future[T] | None = self._pool.submit(next, self._items, _END)

    def __next__(self) -> T:
        if self._coming is None:
            raise StopIteration
        coming, self._coming = self._coming, None
        item = coming.result()
        if item is _END:
            raise StopIteration
        self._coming = self._pool.submit(next, self._items, _END)
        return item

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the item that is being made, and close the other iterator."""
        self._coming = None
        self._pool.shutdown(wait=True, cancel_futures=True)
        close = getattr(self._items, "close", None)
        if close is not None:
            close()
