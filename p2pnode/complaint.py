"""Complaint: what a person is told when the store cannot do what was asked of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from p2pnode.failures import CommandError, Exit, innermost
from p2pnode.store import StoreDamaged, StoreError, StoreFull, StoreLocked, StoreRefused

_REFUSED = {
    "missing": "store.missing",
    "empty": "store.empty",
    "unencrypted": "store.unencrypted",
    "foreign": "store.foreign",
    "newer": "store.newer",
    "library": "store.library",
}


@contextmanager
def understood() -> Iterator[None]:
    """Turns a StoreError into the CommandError that says what to do about it."""
    try:
        yield
    except StoreError as error:
        raise _told(error) from error
    except ExceptionGroup as group:
        inner = innermost(group)
        if isinstance(inner, StoreError):
            raise _told(inner) from group
        raise


def _told(error: StoreError) -> CommandError:
    match error:
        case StoreLocked():
            return CommandError(Exit.LOCKED, "store.locked")
        case StoreRefused(reason=reason):
            return CommandError(Exit.FAILED, _REFUSED[reason])
        case StoreFull():
            return CommandError(Exit.FAILED, "store.full")
        case StoreDamaged():
            return CommandError(Exit.FAILED, "store.damaged")
        case _:
            return CommandError(Exit.FAILED, "store.failed", reason=str(error))
