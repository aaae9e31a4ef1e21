"""Pairs: two real ends of a session joined in memory, and the transcript of what passed between them.

    -> HANDSHAKE      a handshake message of the initiator
    <- DIGEST         a message of the responder, by the name of its frame; a run is RUN and its PAYLOADS

Both ends are members, or the initiator is a caller and the responder its relay.

The transcript is read with a copy of the sender's cipher, frame by frame, so it also shows what raises no event.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import shake_256
from itertools import count
from typing import Any, Generic, TypeVar

from protocol import keys, relay_messages
from protocol.connection import Connection, Phase
from protocol.entry import LogClass, LogIdentity
from protocol.events import Event
from protocol.frames import Type, split_untrusted
from protocol.handshake import LocalEnd, Opened
from protocol.limits import Limits
from protocol.log import Run, must_be_signed, rebuild
from protocol.mask import Mode, SessionSecret
from protocol.noise import KeyPair
from protocol.records import RecordReader
from protocol.relay_handshake import Called, Terms
from protocol.relaying import RelayConnection

WALL = 1_795_000_000.0
SPACE = bytes(range(32))
DIGEST = b"\xdd" * 32
AUTHOR_SEED = b"\x2a" * 32
LIMITS = Limits()
TERMS = Terms(message_size_max=2**20, days_max=30)

Entropy = Callable[[int], bytes]
React = Callable[[Connection, Event], None]
EndT = TypeVar("EndT", Connection, RelayConnection)


def stream(seed: str) -> Entropy:
    """Bytes that look random and are the same every time."""
    draws = count()
    return lambda size: shake_256(f"{seed} {next(draws)}".encode()).digest(size)


def secret_of(mode: Mode = Mode.MEMBER, seed: str = "secret") -> SessionSecret:
    return SessionSecret(SPACE, mode, shake_256(seed.encode()).digest(32))


def local_of(seed: str) -> LocalEnd:
    entropy = stream(f"local {seed}")
    return LocalEnd(KeyPair.generate(entropy), entropy(16))


RELAY = KeyPair.generate(stream("relay"))


@dataclass
class Pair(Generic[EndT]):
    """Both ends. `events` are pairs of whom they came to and what they are; `react` is called with each."""

    initiator: EndT
    responder: EndT
    react: Callable[[EndT, Any], None]
    piece: int = 2**20  # the stream arrives in pieces of at most this many bytes
    types: type[IntEnum] = Type
    now: float = 0.0
    transcript: list[str] = field(default_factory=list)
    events: list[tuple[EndT, Any]] = field(default_factory=list)
    streams: dict[str, bytes] = field(default_factory=lambda: {"->": b"", "<-": b""})
    taps: dict[str, RecordReader] = field(default_factory=dict)

    def pump(self) -> "Pair[EndT]":
        """Carries bytes both ways until both ends have nothing more to say."""
        quiet = False
        while not quiet:
            quiet = True
            for arrow, source, target in (
                ("->", self.initiator, self.responder),
                ("<-", self.responder, self.initiator),
            ):
                data = self.take(arrow, source)
                for at in range(0, len(data), self.piece):
                    quiet = False
                    for event in target.receive(data[at : at + self.piece], self.now):
                        self.events.append((target, event))
                        self.react(target, event)
        return self

    def take(self, arrow: str, source: EndT) -> bytes:
        """What one end sends now, written down."""
        ahead = len(b"".join(source._outgoing))  # handshake messages: records are made in data_to_send
        self.transcript += [f"{arrow} HANDSHAKE"] * len(source._outgoing)
        if source._channel is not None and arrow not in self.taps:
            self.taps[arrow] = RecordReader(deepcopy(source._channel._writer._cipher))
        data = source.data_to_send(self.now)
        if arrow in self.taps:
            for content in self.taps[arrow].receive(data[ahead:]):
                for kind, _ in split_untrusted(content, self.types):
                    self.transcript.append(f"{arrow} {kind.name}")
                    if kind == Type.REKEY:
                        self.taps[arrow].rekey()
        self.streams[arrow] += data
        return data

    def heard(self, end: EndT) -> list[Any]:
        """The events of one end, in order."""
        return [event for target, event in self.events if target is end]

    def forget(self) -> "Pair[EndT]":
        """Begins a new page: what was said so far is not in it."""
        self.transcript.clear()
        self.events.clear()
        return self


def accepting(digest: bytes | None = DIGEST, seed: str = "responder") -> React:
    """Answers every first message that opens and reacts to nothing else."""

    def react(end: Connection, event: Event) -> None:
        if isinstance(event, Opened):
            end.accept(local_of(seed), digest)

    return react


def join(
    mode: Mode = Mode.MEMBER,
    *,
    digests: tuple[bytes | None, bytes | None] = (DIGEST, DIGEST),
    limits: Limits = LIMITS,
    seed: str = "pair",
    piece: int = 2**20,
    also: React = lambda end, event: None,
) -> Pair[Connection]:
    """Two ends that have said nothing yet; the responder accepts, and `also` hears every event after that."""
    accept = accepting(digests[1])

    def react(end: Connection, event: Event) -> None:
        accept(end, event)
        also(end, event)

    secret = secret_of(mode)
    initiator = Connection.initiate(
        secret, local_of("initiator"), digests[0], entropy=stream(f"{seed} i"), now=0.0, wall=WALL, limits=limits
    )
    responder = Connection.respond([secret], entropy=stream(f"{seed} r"), now=0.0, wall=WALL, limits=limits)
    return Pair(initiator, responder, react, piece)


def met(
    mode: Mode = Mode.MEMBER,
    *,
    digests: tuple[bytes | None, bytes | None] = (DIGEST, DIGEST),
    limits: Limits = LIMITS,
    seed: str = "pair",
    piece: int = 2**20,
    also: React = lambda end, event: None,
) -> Pair[Connection]:
    """Two ends whose handshake is done."""
    pair = join(mode, digests=digests, limits=limits, seed=seed, piece=piece, also=also).pump().forget()
    assert pair.initiator.phase is pair.responder.phase is Phase.OPEN
    return pair


def ring(
    *,
    seed: str = "ring",
    piece: int = 2**20,
    also: Callable[[RelayConnection, Any], None] = lambda end, event: None,
) -> Pair[RelayConnection]:
    """A caller and a relay that have said nothing yet; the relay accepts, and `also` hears every event after that."""

    def react(end: RelayConnection, event: Any) -> None:
        if isinstance(event, Called):
            end.accept(TERMS, 0.0)
        also(end, event)

    caller = RelayConnection.dial(RELAY.public, entropy=stream(f"{seed} c"), now=0.0, wall=WALL)
    relay = RelayConnection.listen(RELAY, entropy=stream(f"{seed} r"), now=0.0, wall=WALL)
    return Pair(caller, relay, react, piece, relay_messages.Type)


def through(
    *,
    seed: str = "ring",
    piece: int = 2**20,
    also: Callable[[RelayConnection, Any], None] = lambda end, event: None,
) -> Pair[RelayConnection]:
    """The same once their session stands."""
    pair = ring(seed=seed, piece=piece, also=also).pump().forget()
    assert pair.initiator.phase.name == pair.responder.phase.name == "OPEN"
    return pair


def say(source: Connection | RelayConnection, content: bytes) -> bytes:
    """A record of this end with whatever content, honest or not."""
    assert source._channel is not None
    return source._channel._writer.write(content)


def written(
    payloads: list[bytes],
    *,
    first_seq: int = 1,
    prev: bytes | None = None,
    log_id: bytes = b"\x08" * 8,
    log_class: LogClass = LogClass.REPORT,
    kind: int = 64,
    seed: bytes = AUTHOR_SEED,
    refs: dict[int, tuple[bytes, ...]] | None = None,
) -> Run:
    """The run that an honest author makes of these payloads."""
    log = LogIdentity(SPACE, keys.signer_public(seed), log_id, log_class)
    count = len(payloads)
    lamports, times = list(range(first_seq, first_seq + count)), [1_990_000] * count
    bare = rebuild(SPACE, log, first_seq, prev, lamports, times, [kind] * count, payloads, {}, refs or {}, {})
    secret = keys.signer_secret(seed)
    signatures = {
        index: keys.sign(secret, keys.SIGN_ENTRY, bare.ids[index])
        for index, payload in enumerate(payloads)
        if must_be_signed(index, count, first_seq + index, len(payload))
    }
    return rebuild(SPACE, log, first_seq, prev, lamports, times, [kind] * count, payloads, signatures, refs or {}, {})
