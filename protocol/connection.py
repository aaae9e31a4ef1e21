"""Connection: one session between two nodes. Bytes in, events out; calls in, bytes out; a deadline, and no I/O.

    initiator                                  responder
    start                 -- message 1 -->     Opened: is it a replay? may we answer?
                          <-- message 2 --     accept(local, digest)
    Established           -- message 3 -->     Established
    equal digests: both are live, nothing else is said

    otherwise, in mode member:
    reconcile(snapshot)   -- RECONCILE  -->    SnapshotWanted
                          <-- RECONCILE --     answer(snapshot)
    Differences(keys)          … until done
    send(Positions)       -- POSITION   -->    exactly one answer for each key: runs then END, POSITION (I am
                          <-- RUN, END  --     behind: send me), SAME, DECLINE or PROBE
    send(Digest)          -- DIGEST     -->    "this is what I hold now"
                          <-- DIGEST    --

    in mode join:
    send(RunMessage)      -- RUN        -->    the joiner's claim
                          <-- WELCOME   --     the secrets of the newest epochs
    send(Joined)          -- JOINED     -->    the invitation is used up

    either, at the end:   -- CLOSE      -->

What may be said when is a table; what is missing from it is the peer's error:

    mode    said by      RECONCILE_OPEN  RECONCILE  POSITION…DIGEST  RUN  WELCOME  JOINED  REKEY, CLOSE
    member  initiator    yes             yes        yes              yes  -        -       yes
    member  responder    -               yes        yes              yes  -        -       yes
    join    initiator    -               -          -                yes  -        yes     yes
    join    responder    -               -          -                -    yes      -       yes
    rekey   both         -               -          -                -    -        -       yes

Whoever does not know a secret of ours gets no byte: a responder that cannot open message 1, or is told to refuse it,
reads and discards until a random deadline. After the handshake a broken rule raises RemoteProtocolError and the
session is over. Specification section "Sessions".
"""

from collections.abc import Sequence
from enum import Enum

from protocol.channel import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.events import Differences, Ended, Established, Event, SnapshotWanted
from protocol.frames import Type, split_untrusted
from protocol.frontier import key_of
from protocol.handshake import Finished, Initiator, LocalEnd, Opened, RemoteEnd, Responder
from protocol.limits import (
    HANDSHAKE_SECONDS,
    IDLE_SECONDS,
    SILENCE_SECONDS_MAX,
    SILENCE_SECONDS_MIN,
    Limits,
)
from protocol.mask import Entropy, Mode, SessionSecret
from protocol.messages import (
    Close,
    Message,
    Reconcile,
    Rekey,
    RunMessage,
    decode_untrusted,
    encode,
)
from protocol.noise import KeyPair
from protocol.reconcile import Client, Server, Snapshot
from protocol.run_frames import RunReader


class Phase(Enum):
    HANDSHAKE = "handshake"
    SILENT = "silent"  # a stranger: everything is read, nothing answered
    OPEN = "open"
    ENDED = "ended"  # the peer said CLOSE


_ALWAYS = frozenset({Type.REKEY, Type.CLOSE})
_TALK = _ALWAYS | {kind for kind in Type if Type.RECONCILE <= kind <= Type.DIGEST}
_MAY_SAY: dict[tuple[Mode, bool], frozenset[Type]] = {  # (mode, said by the initiator)
    (Mode.MEMBER, True): _TALK | {Type.RECONCILE_OPEN},
    (Mode.MEMBER, False): _TALK,
    (Mode.JOIN, True): _ALWAYS | {Type.RUN, Type.PAYLOADS, Type.JOINED},
    (Mode.JOIN, False): _ALWAYS | {Type.WELCOME},
    (Mode.REKEY, True): _ALWAYS,  # its messages come with epochs
    (Mode.REKEY, False): _ALWAYS,
}


class Connection:
    """One end of a session. Made by `initiate` or `respond`; every call may leave bytes in data_to_send."""

    def __init__(self, handshake: Initiator | Responder, limits: Limits, entropy: Entropy, deadline: float) -> None:
        self.phase = Phase.HANDSHAKE
        self.deadline = deadline
        self.secret: SessionSecret | None = None
        self.remote: RemoteEnd | None = None
        self.handshake_hash = b""
        self._handshake = handshake
        self._limits = limits
        self._entropy = entropy
        self._outgoing: list[bytes] = []  # handshake messages
        self._channel: Channel | None = None
        self._run: RunReader | None = None
        self._reconciling: Client | Server | None = None
        self._asked: list[bytes] = []  # reconciliation messages that wait for our snapshot
        self._closing = False

    @classmethod
    def initiate(
        cls,
        secret: SessionSecret,
        local: LocalEnd,
        digest: bytes | None,
        *,
        entropy: Entropy,
        now: float,
        wall: float,
        limits: Limits,
    ) -> "Connection":
        """Opens a session. `now` is a monotonic clock, `wall` the UTC clock, both in seconds."""
        initiator = Initiator(secret, local, KeyPair.generate(entropy), digest, entropy, wall)
        connection = cls(initiator, limits, entropy, now + HANDSHAKE_SECONDS)
        connection.secret = secret
        connection._outgoing.append(initiator.start())
        return connection

    @classmethod
    def respond(
        cls,
        secrets: Sequence[SessionSecret],
        *,
        entropy: Entropy,
        now: float,
        wall: float,
        limits: Limits,
    ) -> "Connection":
        """Awaits a session under any of these secrets."""
        spread = (SILENCE_SECONDS_MAX - SILENCE_SECONDS_MIN) * int.from_bytes(entropy(2), "big") / 65535
        return cls(Responder(secrets, entropy, wall), limits, entropy, now + SILENCE_SECONDS_MIN + spread)

    @property
    def initiator(self) -> bool:
        return isinstance(self._handshake, Initiator)

    @property
    def ended(self) -> bool:
        """Whether the peer has said that it is done."""
        return self.phase is Phase.ENDED

    @property
    def unsent_size(self) -> int:
        """Bytes that wait for data_to_send; who serves runs stops above limits.outgoing_bytes_max."""
        waiting = 0 if self._channel is None else self._channel.unsent_size
        return waiting + sum(map(len, self._outgoing))

    # Bytes in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What these bytes mean. Raises RemoteProtocolError when the peer broke a rule: close the link, say nothing."""
        match self.phase:
            case Phase.SILENT:
                return []
            case Phase.ENDED:
                raise RemoteProtocolError("data after the end of the stream")
            case Phase.HANDSHAKE:
                return self._receive_handshake(data, now)
            case Phase.OPEN:
                self.deadline = now + IDLE_SECONDS
                return self._receive_records(data)

    def _receive_handshake(self, data: bytes, now: float) -> list[Event]:
        try:
            outcome = self._handshake.receive(data)
        except RemoteProtocolError:
            if self.initiator:
                raise
            self.phase = Phase.SILENT
            return []
        match outcome:
            case None:
                return []
            case Opened():
                self.secret = outcome.secret
                return [outcome]
            case Finished(message, transport, remote, leftover):
                self.phase = Phase.OPEN
                self.deadline = now + IDLE_SECONDS
                self.remote = remote
                self.handshake_hash = transport.handshake_hash
                self._channel = Channel(transport, now)
                if message:
                    self._outgoing.append(message)
                return [Established(remote), *(self._receive_records(leftover) if leftover else ())]

    def _receive_records(self, data: bytes) -> list[Event]:
        assert self._channel is not None
        assert self.secret is not None
        allowed = _MAY_SAY[self.secret.mode, not self.initiator]
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
        return events

    def _receive_frame(self, kind: Type, body: bytes) -> Event | None:
        if kind is Type.RUN or kind is Type.PAYLOADS:
            return self._receive_run(kind, body)
        if self._run is not None:
            raise RemoteProtocolError("message inside a run")
        message = decode_untrusted(kind, body)
        match message:
            case Reconcile():
                return self._receive_reconcile(message)
            case Rekey():
                assert self._channel is not None
                self._channel.peer_rekeyed()
                return None
            case Close():
                self.phase = Phase.ENDED
                return Ended()
            case _:
                return message

    def _receive_run(self, kind: Type, body: bytes) -> Event | None:
        if (kind is Type.RUN) == (self._run is not None):
            raise RemoteProtocolError("payloads without a run, or a run inside a run")
        if self._run is None:
            assert self.secret is not None
            self._run = RunReader(self.secret.space, body)
        else:
            self._run.receive_untrusted(body)
        run = self._run.run
        if run is None:
            return None
        self._run = None
        return RunMessage(run)

    def _receive_reconcile(self, message: Reconcile) -> Event | None:
        if message.opens:
            if self._asked:
                raise RemoteProtocolError("reconciliation opened twice")
            self._reconciling = None
            self._asked.append(message.body)
            return SnapshotWanted()
        match self._reconciling:
            case Client() as client:
                reply = client.receive_untrusted(message.body)
                if reply is not None:
                    self.send(Reconcile(reply, opens=False))
                    return None
                self._reconciling = None
                return Differences(tuple(sorted({key_of(item) for item in [*client.have, *client.need]})))
            case Server() as server:
                self.send(Reconcile(server.answer_untrusted(message.body), opens=False))
                return None
            case None:
                raise RemoteProtocolError("reconciliation not opened")

    # Calls in

    def accept(self, local: LocalEnd, digest: bytes | None) -> None:
        """Answers the message 1 that Opened announced: once it is written down as seen, and no replay.

        Does nothing when the peer has turned out to be a stranger since: it spoke before it was answered.
        """
        if self.phase is Phase.SILENT:
            return
        if not isinstance(self._handshake, Responder) or self.phase is not Phase.HANDSHAKE:
            raise LocalProtocolError("nothing to accept")
        try:
            self._outgoing.append(self._handshake.accept(local, KeyPair.generate(self._entropy), digest))
        except RemoteProtocolError:
            self.refuse()

    def refuse(self) -> None:
        """Treats the peer as a stranger from here on."""
        self.phase = Phase.SILENT

    def reconcile(self, snapshot: Snapshot) -> None:
        """Initiator: starts a reconciliation over our items; ends in a Differences event."""
        client = Client(snapshot, self._limits.reconcile_frame_max)
        self._reconciling = client
        self.send(Reconcile(client.start(), opens=True))

    def answer(self, snapshot: Snapshot) -> None:
        """Responder: our items as of now, for the reconciliation that SnapshotWanted announced.

        Raises RemoteProtocolError when the message that opened it is malformed.
        """
        if not self._asked:
            raise LocalProtocolError("no reconciliation asked for")
        server = Server(snapshot, self._limits.reconcile_frame_max)
        self._reconciling = server
        self.send(Reconcile(server.answer_untrusted(self._asked.pop()), opens=False))

    def send(self, message: Message) -> None:
        """Puts a message behind what waits already. Behind `close` it goes nowhere: the peer would refuse it."""
        if self.phase not in (Phase.OPEN, Phase.ENDED):
            raise LocalProtocolError("the session is not open")
        assert self._channel is not None
        if not self._closing:
            self._channel.put(encode(message))

    def close(self) -> None:
        """Ends our side of the stream. Does nothing unless the session is open."""
        if self.phase in (Phase.OPEN, Phase.ENDED) and not self._closing:
            self.send(Close())
            self._closing = True

    # Bytes out

    def data_to_send(self, now: float) -> bytes:
        """Everything to be written now, as whole records; messages that wait together share records."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        if self._channel is not None:
            data += self._channel.data_to_send(now, ending=self._closing)
        return data
