"""Reports: file one, import many, list, find, show, watch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import trio

from p2pnode import importing
from p2pnode.control import Handler, Send, Stream
from p2pnode.exchange import News
from p2pnode.failures import CommandError, Exit
from p2pnode.methods.asked import Asked, id_prefix, space_of
from p2pnode.space import Space
from p2pnode.store import Once
from protocol import geohash, report
from protocol.board import Filter, Listed, view
from protocol.entry import Kind, LogClass
from protocol.errors import InputRefused, RemoteProtocolError
from protocol.limits import PAYLOAD_SALT_SIZE, TIME_UNIT_SECONDS
from protocol.log import Run
from protocol.report import Report

if TYPE_CHECKING:
    from p2pnode.node import Node

LIMIT = 50
IMPORT_BATCH_MAX = 1024
MARK_SIZE = 16
ONCE_SIZE = 16
NEWS_WAITING_MAX = 32  # runs that a watcher may lag behind the store before it is cut off


class Reports:
    """Methods `report.*`, `search`, `watch`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.calls: Mapping[str, Handler] = {
            "report.new": self.new,
            "report.import": self.import_batch,
            "report.list": self.list_reports,
            "report.show": self.show,
            "search": self.search,
        }
        self.streams: Mapping[str, Stream] = {"watch": self.watch}

    # Filing

    async def new(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        space = space_of(self._node.spaces, asked)
        once = _bytes(asked.maybe("once"), "once", ONCE_SIZE)
        filed, warnings = importing.report_of(asked.rest())
        payload = report.encode(filed, self._node.ambient.entropy(PAYLOAD_SALT_SIZE))
        node = self._node
        async with node.author.lock:
            if once is not None and (told := await node.store.once(once)) is not None:
                return told
            size = None if filed.place is None else geohash.size_km(filed.place)
            answer = {"place": filed.place, "size_km": size, "warnings": warnings}
            keep = None if once is None else Once(once, lambda run: {"id": run.ids[0].hex(), **answer})
            run = await node.author.publish(space, LogClass.REPORT, [(int(Kind.REPORT), payload)], once=keep)
        node.exchange.announce_run(space, run)
        return {"id": run.ids[0].hex(), **answer}

    async def import_batch(self, params: dict[str, object]) -> object:
        """One batch of {line, mark, report} that the client has read from a file."""
        asked = Asked(params)
        space = space_of(self._node.spaces, asked)
        records = asked.list("records")
        asked.done()
        if len(records) > IMPORT_BATCH_MAX:
            raise InputRefused("records", "too-many", IMPORT_BATCH_MAX)
        node = self._node
        refused: list[dict[str, object]] = []
        ready: dict[bytes, bytes] = {}
        for record in records:
            try:
                line, mark, fields = record["line"], _bytes(record["mark"], "mark", MARK_SIZE), record["report"]
                filed, _ = importing.report_of(fields)
                payload = report.encode(filed, node.ambient.entropy(PAYLOAD_SALT_SIZE))
            except InputRefused as error:
                refused.append({"line": line, "reason": error.reason, "field": error.field})
                continue
            except (TypeError, KeyError, AttributeError):
                raise InputRefused("records", "malformed") from None
            assert mark is not None
            ready.setdefault(mark, payload)
        async with node.author.lock:
            fresh = await node.store.unimported(space.no, list(ready))
            run = None
            if fresh:
                statements = [(int(Kind.REPORT), ready[mark]) for mark in fresh]
                run = await node.author.publish(space, LogClass.REPORT, statements, marks=fresh)
        if run is not None:
            node.exchange.announce_run(space, run)
        return {"imported": len(fresh), "skipped": len(records) - len(refused) - len(fresh), "refused": refused}

    # Reading

    async def list_reports(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        space_no = self._space_or_all(asked)
        near, radius = asked.maybe("near"), asked.maybe_number("radius")
        if (near is None) != (radius is None):
            raise InputRefused("radius" if radius is None else "near", "missing")
        wanted = Filter(
            category=asked.maybe("category"),
            since=_moment(asked.maybe("since"), "since"),
            until=_moment(asked.maybe("until"), "until", last=True),
            near=None if near is None else geohash.parse_position(near, "near"),
            radius_km=radius,
            tag=asked.maybe("tag"),
            status=asked.maybe("status"),
        )
        limit, offset = asked.whole("limit", LIMIT), asked.whole("offset", 0)
        asked.done()
        now = int(self._node.ambient.now())
        store = self._node.store
        return self._views(await store.list_reports(wanted, limit=limit, offset=offset, space_no=space_no, now_s=now))

    async def search(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        space_no = self._space_or_all(asked)
        words, limit, offset = asked.text("words"), asked.whole("limit", LIMIT), asked.whole("offset", 0)
        asked.done()
        now, store = int(self._node.ambient.now()), self._node.store
        return self._views(await store.search(words, limit=limit, offset=offset, space_no=space_no, now_s=now))

    async def show(self, params: dict[str, object]) -> object:
        asked = Asked(params)
        prefix = id_prefix(asked.text("id"))
        asked.done()
        found = await self._node.store.find(prefix)
        if not found:
            raise CommandError(Exit.NOT_FOUND, "report.unknown")
        if len(found) > 1:
            raise CommandError(Exit.NOT_FOUND, "report.ambiguous")
        return self._views(found)[0]

    async def watch(self, params: dict[str, object], send: Send) -> object:
        asked = Asked(params)
        only = space_of(self._node.spaces, asked) if "space" in params and params["space"] is not None else None
        asked.done()
        waiting, coming = trio.open_memory_channel[News](NEWS_WAITING_MAX)

        def note(news: News) -> None:
            if news.run.log.log_class is LogClass.REPORT and only in (None, news.space):
                try:
                    waiting.send_nowait(news)
                except trio.WouldBlock:
                    waiting.close()  # this watcher does not read
                except trio.ClosedResourceError:
                    pass

        stop = self._node.exchange.listen(note)
        try:
            send({"watching": True})
            async for news in coming:
                for listed in listed_in(news.space, news.run):
                    send(self._view(listed))
                await trio.lowlevel.checkpoint()
        finally:
            stop()
        raise CommandError(Exit.FAILED, "watch.behind")

    def _space_or_all(self, asked: Asked) -> int | None:
        """The store's number of the space asked for; None: all of them."""
        return space_of(self._node.spaces, asked).no if asked.has("space") else None

    def _views(self, listed: Iterable[Listed]) -> list[dict[str, Any]]:
        return [self._view(item) for item in listed]

    def _view(self, listed: Listed) -> dict[str, Any]:
        space = self._node.spaces[listed.space]
        return view(listed, space.members.names.get(listed.author, ""))


def listed_in(space: Space, run: Run) -> Iterable[Listed]:
    """The reports that a run carries; what breaks the schema is void."""
    for index, payload in enumerate(run.payloads):
        if run.kinds[index] != Kind.REPORT or payload is None:
            continue
        try:
            said: Report = report.decode_untrusted(payload)
        except RemoteProtocolError:
            continue
        filed = run.times[index] * TIME_UNIT_SECONDS
        yield Listed(0, run.ids[index], space.id, run.log.author, run.lamports[index], filed, said)


def _moment(text: str | None, name: str, *, last: bool = False) -> int | None:
    """A moment as seconds; of a day or an hour its first second, or its last."""
    if text is None:
        return None
    window = report.parse_time(text, name)
    return window.end_s if last else window.start_s


def _bytes(text: str | None, name: str, size: int) -> bytes | None:
    if text is None:
        return None
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise InputRefused(name, "malformed", size)
    return value
