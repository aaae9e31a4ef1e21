"""Relaying: one session between a relay and a caller. Bytes in, events out; calls in, bytes out; a deadline, no I/O.

    caller                                     relay
    dial                  -- message 1 -->     Called: is it a replay? may we answer?
                          <-- message 4 --     accept
    Answered
    send(Read)            -- READ       -->    Read
                          <-- PAGE, MESSAGE, PART …
    Page
    send(Append)          -- APPEND, PART … -> Append
                          <-- APPENDED  --
    Appended
    send(Meet)            -- MEET       -->    Meet
                          <-- MET       --
    Met: from here on `leftover` and the stream are the other caller's
                          -- CLOSE      -->

Every request has one answer, in the order of the requests; a caller that hears anything else, or more than it asked
for, has a relay that broke the rules. At most REQUESTS_MAX wait for their answers. A relay answers a READ that waits at
once when another request comes. Behind a MEET comes no other request: the stream may be somebody else's already.
Nothing of a request or a page is told before all of it is here. Specification section "Relays".
"""

from collections import deque
from enum import Enum
from typing import assert_never

from protocol.channel import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import split_untrusted
from protocol.limits import (
    HANDSHAKE_SECONDS,
    IDLE_SECONDS,
    PAGE_SIZE_MAX,
    SILENCE_SECONDS_MAX,
    SILENCE_SECONDS_MIN,
)
from protocol.mask import Entropy
from protocol.messages import Close
from protocol.noise import KeyPair
from protocol.relay_handshake import Answered, Answerer, Called, Caller, Terms
from protocol.relay_messages import (
    Answer,
    Append,
    Appended,
    AppendHead,
    Assembly,
    Meet,
    Met,
    Page,
    PageHead,
    Read,
    Refused,
    Request,
    Type,
    decode_untrusted,
    encode,
)

REQUESTS_MAX = 16  # requests of one caller that wait for their answers


class Phase(Enum):
    HANDSHAKE = "handshake"
    SILENT = "silent"  # to the relay a stranger: everything is read, nothing answered
    OPEN = "open"
    MET = "met"  # the stream is somebody else's from here on
    ENDED = "ended"


Event = Called | Terms | Request | Answer | Close

_CALLER_SAYS = frozenset({Type.READ, Type.APPEND, Type.PART, Type.MEET, Type.REKEY, Type.CLOSE})
_RELAY_SAYS = frozenset(
    {Type.PAGE, Type.MESSAGE, Type.PART, Type.APPENDED, Type.REFUSED, Type.MET, Type.REKEY, Type.CLOSE}
)


class Questions:
    """The requests that wait for their answers, the oldest first: as the caller counts them, and as the relay does."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[Read | AppendHead | Meet] = deque()

    def ask(self, request: Read | AppendHead | Meet) -> bool:
        """Whether this request may be made now; if so, it waits."""
        if len(self._waiting) >= REQUESTS_MAX or (self._waiting and isinstance(self._waiting[-1], Meet)):
            return False
        self._waiting.append(request)
        return True

    def answer(self, answer: Answer | PageHead) -> bool:
        """Whether this answers the oldest request, which waits no more."""
        match self._waiting.popleft() if self._waiting else None, answer:
            case Read(after=after), Page() | PageHead():
                return answer.base == min(max(after, answer.first - 1), answer.newest)
            case (Read(), Refused()) | (AppendHead(), Appended() | Refused()) | (Meet(), Met() | Refused()):
                return True
            case _:
                return False


class RelayConnection:
    """One end of a session. Made by `dial` or `listen`; every call may leave bytes in data_to_send."""

    def __init__(self, handshake: Caller | Answerer, entropy: Entropy, deadline: float) -> None:
        self.phase = Phase.HANDSHAKE
        self.deadline = deadline
        self._handshake = handshake
        self._entropy = entropy
        self._outgoing: list[bytes] = []
        self._channel: Channel | None = None
        self._questions = Questions()
        self._head: PageHead | AppendHead | None = None  # what the messages that come belong to
        self._bodies: list[bytes] = []
        self._body: Assembly | None = None
        self._closing = False

    @classmethod
    def dial(cls, relay_key: bytes, *, entropy: Entropy, now: float, wall: float) -> "RelayConnection":
        """Opens a session. `now` is a monotonic clock, `wall` the UTC clock, both in seconds.

        Raises RemoteProtocolError for a key that nobody can hold.
        """
        caller = Caller(relay_key, KeyPair.generate(entropy), entropy, wall)
        connection = cls(caller, entropy, now + HANDSHAKE_SECONDS)
        connection._outgoing.append(caller.start(entropy))
        return connection

    @classmethod
    def listen(cls, key: KeyPair, *, entropy: Entropy, now: float, wall: float) -> "RelayConnection":
        """Awaits a caller, as the relay with this key."""
        spread = (SILENCE_SECONDS_MAX - SILENCE_SECONDS_MIN) * int.from_bytes(entropy(2), "big") / 65535
        return cls(Answerer(key, wall), entropy, now + SILENCE_SECONDS_MIN + spread)

    @property
    def calls(self) -> bool:
        """Whether this is the caller's end."""
        return isinstance(self._handshake, Caller)

    @property
    def ended(self) -> bool:
        """Whether the peer has said that it is done."""
        return self.phase is Phase.ENDED

    @property
    def unsent_size(self) -> int:
        """Bytes that wait for data_to_send."""
        waiting = 0 if self._channel is None else self._channel.unsent_size
        return waiting + sum(map(len, self._outgoing))

    @property
    def leftover(self) -> bytes:
        """After Met: bytes of the other caller that arrived behind it."""
        return b"" if self._channel is None else self._channel.leftover

    # Bytes in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What these bytes mean. Raises RemoteProtocolError when the peer broke a rule: hang up, say nothing."""
        match self.phase:
            case Phase.SILENT:
                return []
            case Phase.MET | Phase.ENDED:
                raise RemoteProtocolError("data after the end of the stream")
            case Phase.HANDSHAKE:
                return self._receive_handshake(data, now)
            case Phase.OPEN:
                self.deadline = now + IDLE_SECONDS
                return self._receive_records(data)

    def _receive_handshake(self, data: bytes, now: float) -> list[Event]:
        if isinstance(self._handshake, Answerer):
            try:
                called = self._handshake.receive(data)
            except RemoteProtocolError:
                self.refuse()
                return []
            return [] if called is None else [called]
        match self._handshake.receive(data):
            case None:
                return []
            case Answered(transport, terms, leftover):
                self._channel = Channel(transport, now)
                self.phase = Phase.OPEN
                self.deadline = now + IDLE_SECONDS
                return [terms, *(self._receive_records(leftover) if leftover else ())]

    def _receive_records(self, data: bytes) -> list[Event]:
        assert self._channel is not None
        allowed = _RELAY_SAYS if self.calls else _CALLER_SAYS
        events: list[Event] = []
        for content in self._channel.receive(data):
            for kind, body in split_untrusted(content, Type):
                if self.phase is not Phase.OPEN:
                    raise RemoteProtocolError("message after the end of the stream")
                if kind not in allowed:
                    raise RemoteProtocolError("message out of place")
                event = self._receive_frame(kind, body)
                if event is not None:
                    events.append(event)
            if self.phase is Phase.MET:
                break  # what follows is no record
        return events

    def _receive_frame(self, kind: Type, body: bytes) -> Event | None:
        if kind is Type.PART:
            if self._body is None:
                raise RemoteProtocolError("part of no message")
            whole = self._body.add_untrusted(body)
            return None if whole is None else self._whole(whole)
        if self._body is not None or (self._head is not None and kind is not Type.MESSAGE):
            raise RemoteProtocolError("message inside another")
        match kind:
            case Type.REKEY | Type.CLOSE:
                if body:
                    raise RemoteProtocolError("message: malformed")
                return self._receive_bare(kind)
        match decode_untrusted(kind, body):
            case int() as size:
                if self._head is None:
                    raise RemoteProtocolError("message of no page")
                if self._bodies and sum(map(len, self._bodies)) + size > PAGE_SIZE_MAX:
                    raise RemoteProtocolError("page longer than a page")
                self._body = Assembly(size)
                return None
            case Read() | Meet() | AppendHead() as request:
                if not self._questions.ask(request):
                    raise RemoteProtocolError("request that had to wait")
                if not isinstance(request, AppendHead):
                    return request
                self._head, self._body = request, Assembly(request.size)
                return None
            case PageHead() | Appended() | Refused() | Met() as answer:
                if not self._questions.answer(answer):
                    raise RemoteProtocolError("answer to what was not asked")
                return self._receive_answer(answer)
            case other:
                assert_never(other)

    def _receive_answer(self, answer: PageHead | Appended | Refused | Met) -> Answer | None:
        match answer:
            case PageHead(base, hash, first, newest, count):
                if not count:
                    return Page(base, hash, first, newest, ())
                self._head = answer
                return None
            case Met():
                self.phase = Phase.MET
                return answer
            case _:
                return answer

    def _receive_bare(self, kind: Type) -> Event | None:
        assert self._channel is not None
        if kind is Type.REKEY:
            self._channel.peer_rekeyed()
            return None
        self.phase = Phase.ENDED
        return Close()

    def _whole(self, body: bytes) -> Event | None:
        self._body = None
        match self._head:
            case AppendHead(topic, signature, _, days):
                self._head = None
                return Append(topic, signature, days, body)
            case PageHead(base, hash, first, newest, count):
                self._bodies.append(body)
                if len(self._bodies) < count:
                    return None
                page = Page(base, hash, first, newest, tuple(self._bodies))
                self._head, self._bodies = None, []
                return page
            case None:
                raise LocalProtocolError("message without a head")

    # Calls in

    def accept(self, terms: Terms, now: float) -> None:
        """Relay: answers the caller that Called announced, once its tag is written down as seen and new.

        Does nothing when the caller has turned out to be a stranger since: it spoke before it was answered.
        """
        if self.phase is Phase.SILENT:
            return None
        if not isinstance(self._handshake, Answerer) or self.phase is not Phase.HANDSHAKE:
            raise LocalProtocolError("nobody to accept")
        try:
            answer, transport = self._handshake.answer(KeyPair.generate(self._entropy), terms, self._entropy)
        except RemoteProtocolError:
            return self.refuse()
        self._outgoing.append(answer)
        self._channel = Channel(transport, now)
        self.phase = Phase.OPEN
        self.deadline = now + IDLE_SECONDS
        return None

    def refuse(self) -> None:
        """Treats the peer as a stranger from here on."""
        self.phase = Phase.SILENT

    def send(self, message: Request | Answer) -> None:
        """Puts behind what waits already a request that may be made now, or the answer to the oldest one."""
        if self._channel is None or self.phase not in (Phase.OPEN, Phase.ENDED):
            raise LocalProtocolError("the session is not open")
        if self._closing:
            return
        match message:
            case Read() | Meet():
                fits = self.calls and self._questions.ask(message)
            case Append(topic, signature, days, body):
                fits = self.calls and self._questions.ask(AppendHead(topic, signature, len(body), days))
            case _:
                fits = not self.calls and self._questions.answer(message)
        if not fits:
            raise LocalProtocolError("a request that has to wait, or an answer to what was not asked")
        self._channel.put(list(encode(message)))
        if isinstance(message, Met):
            self.phase = Phase.MET

    def close(self) -> None:
        """Ends our side of the stream. Does nothing unless the session is open."""
        if self._channel is not None and self.phase in (Phase.OPEN, Phase.ENDED) and not self._closing:
            self._channel.put(list(encode(Close())))
            self._closing = True

    # Bytes out

    def data_to_send(self, now: float) -> bytes:
        """Everything to be written now."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        if self._channel is not None:
            data += self._channel.data_to_send(now, ending=self._closing or self.phase is Phase.MET)
        return data
