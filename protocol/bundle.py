"""Bundle: entries sealed for everybody who holds a secret of the space: a file on a stick, a message in a mailbox.

    bundle   = salt (24 bytes) || segment, segment, …
    segment  = 64 chunks, the last one fewer          one secretstream; its header is derived from salt and number
    chunk    = 65,536 bytes on the outside, the last of all what is left
    content  = frame, frame, … || zeros               a frame never crosses a chunk
    key      = derive(secret); the secret is an epoch's, or an invitation's join secret for a welcome

There is no magic, no name and no length in it that could be read: every byte looks random, and the whole has a size
that Padmé gives, its salt included. Frames are those that members exchange (RUN, PAYLOADS, POSITION, WELCOME) and a few
of its own; a reader passes over types that it does not know, so that later versions can add some.

What is damaged ends its segment: the next one stands by itself. A bundle whose last chunk is not there, or behind
which something was put, is told apart from a whole one. Runs are proven like any other, so what is left of a bundle is
as good as if it had come alone. Specification "Bundles".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import assert_never

from protocol import cbor, keys, messages
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import Type as MemberType
from protocol.frames import frame, is_bytes, is_int, need, parts_untrusted, tuple_untrusted
from protocol.limits import BUNDLE_CHUNK_SIZE, BUNDLE_FLOOR, BUNDLE_SEGMENT_CHUNKS
from protocol.mailbox import HASH_SIZE, Cursor
from protocol.messages import Positions, RunMessage, Welcome
from protocol.padding import padme
from protocol.run_frames import RunReader

VERSION = 1
SALT_SIZE = keys.STREAM_HEADER_SIZE
CONTENT_SIZE = BUNDLE_CHUNK_SIZE - keys.STREAM_OVERHEAD  # of frames and zeros in a chunk

_KEY_PURPOSE = b"p2pnode bundle 1"
_SEGMENT_PERSON = b"p2pnode segm 1"
_ENTRIES_MAX = 2**53


class Type(IntEnum):
    """The first byte of a frame in a bundle: the members' own numbers, and some beyond them."""

    POSITION = int(MemberType.POSITION)
    RUN = int(MemberType.RUN)
    PAYLOADS = int(MemberType.PAYLOADS)
    WELCOME = int(MemberType.WELCOME)
    HEAD = 32
    SEEN = 33


@dataclass(frozen=True, slots=True)
class Head:
    """The first frame: how many entries the maker put in, for progress only."""

    entries: int


@dataclass(frozen=True, slots=True)
class Seen:
    """In a mailbox: where the topic stood when this was appended. A relay that shows another story is lying."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Damaged:
    """Something here cannot be read; the reader goes on with the next segment."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A frame that no honest maker writes; the reader goes on behind it."""


Part = Head | Seen | Positions | RunMessage | Welcome
Found = Part | Damaged | Malformed


class Sealer:
    """Makes a bundle, holding no more of it than one chunk. `salt` is random and used once."""

    __slots__ = ("_chunks", "_content", "_key", "_salt", "_size", "_stream")

    def __init__(self, secret: bytes, salt: bytes) -> None:
        if len(salt) != SALT_SIZE:
            raise LocalProtocolError("salt must be 24 bytes")
        self._key = keys.derive(secret, _KEY_PURPOSE)
        self._salt = salt
        self._stream: keys.Stream
        self._chunks = 0
        self._content: list[bytes] = []
        self._size = 0

    def put(self, part: Part) -> bytes:
        """Adds a part; the bytes of the bundle that are finished by it."""
        sealed = []
        for piece in _frames(part):
            if self._size + len(piece) > CONTENT_SIZE:
                sealed.append(self._seal(CONTENT_SIZE))
            self._content.append(piece)
            self._size += len(piece)
        return b"".join(sealed)

    def finish(self) -> bytes:
        """The rest of the bundle, padded."""
        full = SALT_SIZE + self._chunks * BUNDLE_CHUNK_SIZE
        left = padme(max(full + self._size + keys.STREAM_OVERHEAD, BUNDLE_FLOOR)) - full
        sealed = []
        while left > BUNDLE_CHUNK_SIZE:
            sealed.append(self._seal(CONTENT_SIZE))
            left -= BUNDLE_CHUNK_SIZE
        # Padmé's steps are larger than the few bytes that would be too few for a chunk of its own.
        sealed.append(self._seal(left - keys.STREAM_OVERHEAD, final=True))
        return b"".join(sealed)

    def _seal(self, size: int, *, final: bool = False) -> bytes:
        content = b"".join(self._content).ljust(size, b"\0")
        self._content, self._size = [], 0
        salt = b"" if self._chunks else self._salt
        if self._chunks % BUNDLE_SEGMENT_CHUNKS == 0:
            self._stream = _segment(self._key, self._salt, self._chunks // BUNDLE_SEGMENT_CHUNKS)
        self._chunks += 1
        return salt + self._stream.seal(content, final=final)


@dataclass(frozen=True, slots=True)
class Opener:
    """A secret that may open a bundle, and the space whose it is."""

    space: bytes
    secret: bytes


class Unsealer:
    """Reads a bundle chunk by chunk. The caller cuts it: the salt, then pieces of BUNDLE_CHUNK_SIZE bytes."""

    __slots__ = ("_behind", "_chunks", "_ended", "_keys", "_run", "_salt", "_stream", "opener")

    def __init__(self, salt: bytes, openers: Sequence[Opener]) -> None:
        """Which of these secrets fits shows with the first chunk that opens: `opener`; None until then."""
        self.opener: Opener | None = None
        self._salt = salt
        self._keys = [(opener, keys.derive(opener.secret, _KEY_PURPOSE)) for opener in openers]
        self._stream: keys.Stream | None = None
        self._run: RunReader | None = None
        self._chunks = 0
        self._ended = False
        self._behind = False  # something was read after the end

    @property
    def whole(self) -> bool:
        """Whether the last chunk that was read is the last one of the bundle. What is damaged before it was told."""
        return self._ended and not self._behind

    @property
    def behind(self) -> bool:
        """Whether something was read that stands behind the end: nothing of it can be of any use."""
        return self._behind

    def skip(self) -> int:
        """Passes over the chunks that hang on one that could not be read; how many, before the next segment."""
        if self._stream is not None:
            return 0
        count = -self._chunks % BUNDLE_SEGMENT_CHUNKS
        self._chunks += count
        return count

    def read_untrusted(self, chunk: bytes) -> list[Found]:
        """What the next chunk holds. Any bytes may be given: what cannot be read is Damaged or Malformed."""
        begins = self._chunks % BUNDLE_SEGMENT_CHUNKS == 0
        number = self._chunks // BUNDLE_SEGMENT_CHUNKS
        self._chunks += 1
        if self._ended:
            self._behind = True
            return [Damaged()]
        content = self._open_segment_untrusted(number, chunk) if begins else self._open_untrusted(self._stream, chunk)
        if content is None:
            lost = begins or self._stream is not None
            self._stream = self._run = None
            return [Damaged()] if lost else []
        return self._split_untrusted(content)

    def _open_segment_untrusted(self, number: int, chunk: bytes) -> bytes | None:
        for opener, key in self._keys:
            self._stream = _segment(key, self._salt, number)
            content = self._open_untrusted(self._stream, chunk)
            if content is not None:
                self.opener = opener
                self._keys = [(opener, key)]
                return content
        return None

    def _open_untrusted(self, stream: keys.Stream | None, chunk: bytes) -> bytes | None:
        if stream is None:
            return None
        try:
            content, self._ended = stream.unseal(chunk)
        except RemoteProtocolError:
            return None
        return content

    def _split_untrusted(self, content: bytes) -> list[Found]:
        found: list[Found] = []
        try:
            for number, body in parts_untrusted(content, padded=True):
                part = self._part_untrusted(number, body)
                if part is not None:
                    found.append(part)
        except RemoteProtocolError:
            found.append(Malformed())
        return found

    def _part_untrusted(self, number: int, body: bytes) -> Found | None:
        assert self.opener is not None
        try:
            kind = Type(number)
        except ValueError:
            return None
        try:
            if kind is not Type.PAYLOADS:
                self._run = None
            match kind:
                case Type.RUN:
                    self._run = RunReader(self.opener.space, body)
                    return self._finished_run()
                case Type.PAYLOADS:
                    if self._run is None:  # its head was in a chunk that is lost, or was malformed
                        return None
                    self._run.receive_untrusted(body)
                    return self._finished_run()
                case Type.POSITION:
                    return _member(messages.decode_untrusted(MemberType.POSITION, body))
                case Type.WELCOME:
                    return _member(messages.decode_untrusted(MemberType.WELCOME, body))
                case Type.HEAD:
                    version, entries = tuple_untrusted(body, 2)
                    need(is_int(version, VERSION, VERSION) and is_int(entries, 0, _ENTRIES_MAX))
                    return Head(entries)
                case Type.SEEN:
                    at, hash = tuple_untrusted(body, 2)
                    need(is_int(at, 0, _ENTRIES_MAX) and is_bytes(hash, HASH_SIZE))
                    return Seen(Cursor(at, hash))
                case _:
                    assert_never(kind)
        except RemoteProtocolError:
            self._run = None
            return Malformed()

    def _finished_run(self) -> RunMessage | None:
        run = self._run.run if self._run is not None else None
        if run is None:
            return None
        self._run = None
        return RunMessage(run)


def _frames(part: Part) -> list[bytes]:
    match part:
        case Head(entries):
            return [frame(Type.HEAD, cbor.encode([VERSION, entries]))]
        case Seen(cursor):
            return [frame(Type.SEEN, cbor.encode([cursor.number, cursor.hash]))]
        case _:
            return messages.encode(part)


def _segment(key: bytes, salt: bytes, number: int) -> keys.Stream:
    header = keys.keyed_hash(key, _SEGMENT_PERSON, salt + number.to_bytes(4, "big"), keys.STREAM_HEADER_SIZE)
    return keys.Stream(key, header)


def _member(message: messages.Message) -> Positions | Welcome:
    assert isinstance(message, Positions | Welcome)
    return message
