"""Lines: a file that may be broken anywhere, read as text without ever holding more than one record of it."""

from collections.abc import Iterator
from typing import BinaryIO

from protocol.errors import InputRefused

BOM = b"\xef\xbb\xbf"
RECORD_SIZE_MAX = 128 * 1024  # bytes of one source record: the largest report is 12 KiB, sixfold when JSON escapes it


class Broken(Exception):
    """A line that cannot be text of a record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Lines:
    """The lines of a file as text; of one record it never reads more than RECORD_SIZE_MAX.

    Raises Broken; `skip` then finds the next record without keeping anything, by the number of quotes so far: inside
    a quoted field, which may hold line ends, it is odd.
    """

    def __init__(self, file: BinaryIO, lead: bytes = b"", number: int = 0) -> None:
        """`lead`: the bytes of the next line that were already read; `number`: how many lines were."""
        self.number = number
        self._file, self._lead = file, lead
        self._size = self._quotes = 0
        self._inside_line = False

    def begin(self) -> None:
        """The next line begins a record."""
        self._size = self._quotes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._read()
        if not raw:
            raise StopIteration
        if self._size > RECORD_SIZE_MAX:
            raise Broken("too-long")
        if b"\0" in raw:
            raise Broken("nul")
        try:
            return raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise Broken("not-utf8") from error

    def skip(self, quotes: bool = False) -> None:
        """Read on to the end of the record. Raises InputRefused where a quote never closes."""
        while self._inside_line or (quotes and self._quotes % 2):
            if not self._read():
                if quotes and self._quotes % 2:
                    raise InputRefused("file", "quote-not-closed")
                return

    def _read(self) -> bytes:
        raw, self._lead = self._lead + self._file.readline(RECORD_SIZE_MAX + 1), b""
        self.number += not self._inside_line and raw != b""
        self._inside_line = raw != b"" and not raw.endswith(b"\n")
        self._size += len(raw)
        self._quotes += raw.count(b'"')
        return raw
