"""What can be wrong with a store, in words that decide what a person has to do.

StoreError
├── StoreRefused   the file cannot be opened as a store; it was left as it is. `reason` says why:
│                  missing, empty, unencrypted, foreign, newer, library
├── StoreLocked    it looks like a store, but this key does not open it (or its first page is damaged)
├── StoreFull      no space left on the disk: nothing was written, reading goes on
├── StoreDamaged   a page does not authenticate: what it held is gone, the rest is readable
└── StoreFailed    the machine refused to read or write; nothing was acknowledged
"""

from collections.abc import Iterator
from contextlib import contextmanager

import apsw


class StoreError(Exception):
    """Base of all errors of the store. The text never holds a key or a byte of what is stored."""


class StoreRefused(StoreError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"not a store that can be opened: {reason}")
        self.reason = reason


class StoreLocked(StoreError):
    def __init__(self) -> None:
        super().__init__("this key does not open the store, or its first page is damaged")


class StoreFull(StoreError):
    def __init__(self) -> None:
        super().__init__("no space left on the disk: nothing was written")


class StoreDamaged(StoreError):
    def __init__(self) -> None:
        super().__init__("a page of the store is damaged")


class StoreFailed(StoreError):
    def __init__(self, cause: str) -> None:
        super().__init__(f"the store cannot be read or written: {cause}")
        self.cause = cause


@contextmanager
def translated() -> Iterator[None]:
    """Turns what SQLite says about disk and file into ours. A broken constraint is our bug and passes unchanged."""
    try:
        yield
    except apsw.FullError as error:
        raise StoreFull from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreDamaged from error
    except apsw.IOError as error:
        if getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE:  # how a full disk shows beside a WAL
            raise StoreFull from error
        raise StoreFailed(type(error).__name__) from error
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError, apsw.NoMemError, apsw.BusyError) as error:
        raise StoreFailed(type(error).__name__) from error
