"""Board: listing what has come in, and finding it again. The part of the store behind `list`, `search` and `show`."""

from collections.abc import Sequence
from functools import partial

import apsw
import trio

from p2pnode.store import listing, reports
from p2pnode.store.database import Database
from p2pnode.store.statements import one
from protocol.board import Filter, Listed

INDEX_ROWS = 4096  # listed in one transaction if nobody waits: the indexes are written once for all of them
READ_ROWS = 1024  # judged at once beside the writer; other readers get their turn in between
LOAD_ROWS = 256  # reports read in one go of a long list


class Board:
    """Lists what is committed. `fills` counts transactions in which absent payloads came; it is the writer's."""

    def __init__(self, database: Database) -> None:
        self.fills = 0
        self._database = database
        self._indexing = trio.Lock()

    async def index_some(self, limit: int = 2**31) -> int:
        """Lists and makes searchable up to `limit` entries that wait for it; returns how many still wait.

        Payloads are judged beside the writer, which takes a batch as one transaction but gives way between slices.
        """
        async with self._indexing:
            if not self._pending():
                return 0  # own reports are listed with their commit
            fills = self.fills
            rows = await self._read_pending(0, limit)
            while rows:
                limit -= len(rows)
                entering = self._database.order(partial(self._enter, rows, fills), durable=False)
                try:
                    more = len(rows) == INDEX_ROWS
                    ahead = await self._read_pending(rows[-1].entry, limit) if more else []
                finally:
                    done = await entering.wait()
                while 0 < done < len(rows):
                    rows = rows[done:]
                    done = await self._database.write(partial(self._enter, rows, fills), durable=False)
                if not done:
                    break
                rows = ahead
        return self._pending()

    def _pending(self) -> int:
        pending: int = self._database.peek(lambda db: one(db, "SELECT coalesce(sum(pending), 0) FROM space"))
        return pending

    async def _read_pending(self, after: int, limit: int) -> list[reports.Row]:
        rows: list[reports.Row] = []
        while (wanted := min(limit, INDEX_ROWS) - len(rows)) > 0:
            part = await self._database.query(partial(reports.read_pending, after=after, limit=min(wanted, READ_ROWS)))
            rows += part
            if len(part) < min(wanted, READ_ROWS):
                break
            after = part[-1].entry
        return rows

    def _enter(self, rows: Sequence[reports.Row], fills: int, db: apsw.Connection) -> int:
        if fills != self.fills:
            return 0  # a payload that was absent when these rows were read may be here now
        return reports.write_pending(db, rows, lambda: self._database.someone_waits)

    async def list_reports(
        self, wanted: Filter, *, limit: int, now_s: int, offset: int = 0, space_no: int | None = None
    ) -> list[Listed]:
        """The reports that pass, in the order of the board, of one space or all; limit 0 is no limit."""
        return await self._load(
            await self._database.query(lambda db: listing.find_numbers(db, wanted, now_s, limit, offset, space_no))
        )

    async def search(
        self, words: str, *, limit: int, now_s: int, offset: int = 0, space_no: int | None = None
    ) -> list[Listed]:
        """The reports that hold all of these words, in the order of the board. Raises InputRefused for too many."""
        return await self._load(
            await self._database.query(lambda db: listing.search_numbers(db, words, now_s, limit, offset, space_no))
        )

    async def find(self, prefix: str) -> list[Listed]:
        """The reports whose id begins with these hex digits: none, the one, or two of too many."""
        return await self._load(await self._database.query(lambda db: listing.find_prefix(db, prefix)))

    async def _load(self, numbers: Sequence[int]) -> list[Listed]:
        listed: list[Listed] = []
        for at in range(0, len(numbers), LOAD_ROWS):
            listed += await self._database.query(partial(listing.load, numbers=numbers[at : at + LOAD_ROWS]))
        return listed
