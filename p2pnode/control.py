"""The local socket through which a person's programs talk to the daemon: JSON-RPC 2.0, one object per line.

Only the user who runs the daemon may talk: the socket is 0600 in a directory 0700, and the kernel is asked who is at
the other end. A method is named by the CLI's words joined with a dot, its params by the options, and its result is what
`--json` prints. Requests of one connection are answered one after another, in their order, so a client may send the
next before it has the answer. An error carries the exit code of section "exit codes" as `code`, an English sentence as
`message`, and as `data` the key and fields from which a client says it in its own language.

    -> {"jsonrpc":"2.0","id":1,"method":"space.create","params":{"name":"vecinos"}}
    <- {"jsonrpc":"2.0","id":1,"result":{"id":"…"}}
    <- {"jsonrpc":"2.0","id":1,"error":{"code":4,"message":"…","data":{"key":"…","fields":{}}}}

A file travels as a descriptor beside the line that needs it (SCM_RIGHTS), never as a path: whoever asks opens it, the
daemon may be allowed less. It belongs to the line of the last byte that came with it, and is closed when that is
answered, whatever the answer. One waits per connection beside the one in use; any other is closed at once.

A streaming method also sends notifications under its own name until it ends: reports (`watch`), or how far a long call
has come. What a client does not read is kept for it up to a bound; beyond, the client is cut off. Nobody waits for it.
A client that leaves ends its streaming call; any other call it began is finished.

What any local program can make us hold: one line per connection, and so many connections; past those the connection
that has been idle longest gives way, and one that is at work never does.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import trio

from p2pnode.failures import CommandError, innermost, refused
from p2pnode.outbox import Outbox, encoded
from p2pnode.socketfile import open_listener as open_listener
from protocol.errors import InputRefused

Handler = Callable[[dict[str, object]], Awaitable[object]]
Send = Callable[[object], None]
Stream = Callable[[dict[str, object], Send], Awaitable[object]]
Note = Callable[..., None]  # note("control.refused", reason="uid"): an event for the daemon's log

DESCRIPTORS_MAX = 4  # taken off one message, so that the kernel cuts off none; all but the first are closed

NO_STREAMS: Mapping[str, Stream] = {}
CHUNK_SIZE = 64 * 1024
INT_SIZE = struct.calcsize("i")

PARSE_ERROR = -32700  # codes of JSON-RPC 2.0
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open file that came beside a request: no JSON can make one."""

    number: int


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """What the clients of one user can make the daemon hold; tests shrink it."""

    line_size_max: int = 1024 * 1024  # bytes of one request; an import batch is half of it
    connections_max: int = 64  # far more than one person's programs open at once
    unread_bytes_max: int = 8 * 1024 * 1024  # of notifications: a full run of the largest reports still fits
    answer_seconds_max: float = 30.0  # for a client to take its answer


DEFAULT_LIMITS = ControlLimits()


async def serve(
    listener: trio.SocketListener,
    methods: Mapping[str, Handler],
    streams: Mapping[str, Stream] = NO_STREAMS,
    *,
    note: Note = lambda event, **fields: None,
    limits: ControlLimits = DEFAULT_LIMITS,
) -> None:
    """Answer clients until cancelled."""
    desk = _Desk(methods, streams, note, limits)
    try:
        await trio.serve_listeners(desk.receive, [listener])
    finally:
        await trio.aclose_forcefully(listener)


class _Hangup(Exception):
    """The client left or has to: end its connection quietly."""


class _Refused(Exception):
    """A request that is not one; the code is JSON-RPC's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Request:
    id: int | str
    method: str
    params: dict[str, object]


@dataclass(eq=False, slots=True)
class _Client:
    stream: trio.SocketStream
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    idle_since: float | None = None  # None while a request is being answered
    buffer: bytearray = field(default_factory=bytearray)
    file: Descriptor | None = None  # waits for the line in which `file_at` lies
    file_at: int = 0  # place in the buffer of the last byte that came with it

    def keep(self, chunk: bytes, descriptors: list[int]) -> None:
        """Adds what came; of descriptors the first is kept where none waits, the others are closed."""
        self.buffer += chunk
        for number in descriptors:
            if self.file is None:
                self.file, self.file_at = Descriptor(number), len(self.buffer) - 1
            else:
                os.close(number)

    def take_line(self, end: int) -> tuple[bytes, Descriptor | None]:
        """What is in the buffer before `end`, without the newline there, and the file that came beside it."""
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        file = None
        if self.file is not None and self.file_at <= end:
            file, self.file = self.file, None
        self.file_at -= end + 1
        return line, file


@dataclass(eq=False, slots=True)
class _Desk:
    """Everybody who is connected, and what they may ask for."""

    methods: Mapping[str, Handler]
    streams: Mapping[str, Stream]
    note: Note
    limits: ControlLimits
    clients: set[_Client] = field(default_factory=set)

    async def receive(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close."""
        async with stream:
            if _peer_uid(stream) != os.geteuid():
                self.note("control.refused", reason="uid")
                return
            if not self._make_room():
                self.note("control.refused", reason="full")
                return
            client = _Client(stream)
            self.clients.add(client)
            try:
                with client.scope:
                    await self._converse(client)
            except (_Hangup, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            except Exception as bug:  # what a streaming call raised while its client left
                self.note("control.failed", error=type(innermost(bug)).__name__)
            finally:
                self.clients.discard(client)
                _close(client.file)

    def _make_room(self) -> bool:
        if len(self.clients) < self.limits.connections_max:
            return True
        idle = [client for client in self.clients if client.idle_since is not None]
        if not idle:
            return False
        oldest = min(idle, key=lambda client: client.idle_since or 0.0)
        oldest.scope.cancel()
        self.clients.discard(oldest)
        self.note("control.closed", reason="idle")
        return True

    async def _converse(self, client: _Client) -> None:
        while True:
            client.idle_since = trio.current_time()
            line, file = await self._line(client)
            client.idle_since = None
            try:
                answer = await self._reply(client, line, file)
            finally:
                _close(file)
            await self._tell(client, answer)

    async def _reply(self, client: _Client, line: bytes, file: Descriptor | None) -> bytes:
        asked: int | str | None = None
        try:
            request = _request(line)
            asked = request.id
            if file is not None:
                request.params["file"] = file
            result = await self._carry_out(client, request)
            return encoded({"jsonrpc": "2.0", "id": asked, "result": result})
        except _Refused as told_apart:
            return _error(asked, told_apart.code, str(told_apart))
        except _Hangup:
            raise
        except Exception as error:
            match innermost(error):
                case CommandError() as told:
                    pass
                case InputRefused(field=name, reason=reason, limit=limit):
                    told = refused(name, reason, limit)
                case bug:  # one call's bug must not silence the node for everybody
                    self.note("control.failed", method=request.method, error=type(bug).__name__)
                    return _error(asked, INTERNAL_ERROR, "internal error")
            return _error(asked, told.code, told.message, {"key": told.key, "fields": told.fields})

    async def _carry_out(self, client: _Client, request: _Request) -> object:
        if handler := self.methods.get(request.method):
            return await handler(request.params)
        if stream := self.streams.get(request.method):
            return await self._stream(client, stream, request)
        raise _Refused(METHOD_NOT_FOUND, "unknown method")

    async def _stream(self, client: _Client, stream: Stream, request: _Request) -> object:
        outbox = Outbox(request.method, client.scope, self.limits.unread_bytes_max)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outbox.pump, client.stream)
                nursery.start_soon(self._until_gone, client)
                try:
                    return await stream(request.params, outbox.send)
                finally:
                    with trio.move_on_after(self.limits.answer_seconds_max) as patience:
                        await outbox.emptied()
                    nursery.cancel_scope.cancel()
                    if patience.cancelled_caught:  # half a line may be out: nothing can follow it
                        client.scope.cancel()
        finally:
            if outbox.overflowed:
                self.note("control.closed", reason="unread")

    async def _until_gone(self, client: _Client) -> None:
        """Cancel the connection when the client leaves; keep what it sends meanwhile for later, up to a line."""
        while await _some(client):
            if len(client.buffer) > self.limits.line_size_max:
                break
        client.scope.cancel()

    async def _line(self, client: _Client) -> tuple[bytes, Descriptor | None]:
        """The next line without its end, and its file; hangs up on a client that leaves or whose line is too long."""
        searched = 0
        while (end := client.buffer.find(b"\n", searched)) < 0 and len(client.buffer) <= self.limits.line_size_max:
            searched = len(client.buffer)
            if not await _some(client):
                raise _Hangup
        if not 0 <= end <= self.limits.line_size_max:
            await self._tell(client, _error(None, INVALID_REQUEST, "line too long"))
            raise _Hangup
        return client.take_line(end)

    async def _tell(self, client: _Client, line: bytes) -> None:
        with trio.move_on_after(self.limits.answer_seconds_max) as patience:
            await client.stream.send_all(line)
        if patience.cancelled_caught:
            raise _Hangup


def _request(line: bytes) -> _Request:
    """One request; whatever else the line holds is refused by JSON-RPC's codes."""
    try:
        request = json.loads(line.decode(), parse_constant=_no_constant)
        if b"\\u" in line:  # an escaped lone surrogate is text that cannot be written anywhere
            json.dumps(request, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise _Refused(PARSE_ERROR, "not one line of JSON") from None
    match request:
        case {"jsonrpc": "2.0", "id": (int() | str()) as asked, "method": str(method), **rest}:
            if isinstance(asked, bool) or len(str(asked)) > 64 or not set(rest) <= {"params"}:
                raise _Refused(INVALID_REQUEST, "not a request")
        case _:
            raise _Refused(INVALID_REQUEST, "not a request")
    params = rest.get("params", {})
    if not isinstance(params, dict):
        raise _Refused(INVALID_PARAMS, "params are named")
    return _Request(asked, method, params)


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _error(asked: int | str | None, code: int, message: str, data: Mapping[str, object] | None = None) -> bytes:
    error: dict[str, object] = {"code": int(code), "message": message}
    if data is not None:
        error["data"] = data
    return encoded({"jsonrpc": "2.0", "id": asked, "error": error})


async def _some(client: _Client) -> bool:
    """Keeps what the client sends next, and the files that come with it. False when it has left."""
    room = socket.CMSG_SPACE(DESCRIPTORS_MAX * INT_SIZE)
    try:
        chunk, ancillary, _, _ = await client.stream.socket.recvmsg(CHUNK_SIZE, room, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return False
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) // INT_SIZE
            descriptors += struct.unpack(f"{whole}i", data[: whole * INT_SIZE])
    client.keep(bytes(chunk), descriptors)
    return bool(chunk)


def _close(file: Descriptor | None) -> None:
    if file is not None:
        os.close(file.number)


def _peer_uid(stream: trio.SocketStream) -> int:
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
