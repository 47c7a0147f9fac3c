"""Errors in groups of one: whoever calls rtsync gets the error that happened, not the task groups it passed through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["bare_errors", "leaves", "sole"]


def sole(error: BaseException) -> BaseException:
    """Return the only exception inside nested groups of one, else *error* itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions that are no groups, however deep. The groups around them change with each task they pass."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


@contextmanager
def bare_errors() -> Iterator[None]:
    """Let what the block raises in groups of one come out bare, its cause kept."""
    try:
        yield
    except BaseExceptionGroup as group:
        cause = sole(group)
        if cause is group:
            raise
        raise cause from cause.__cause__
