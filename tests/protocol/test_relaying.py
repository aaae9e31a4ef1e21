"""Relaying: whole conversations between a caller and a relay, and everything that must not be said in one."""

from operator import and_, or_
from typing import Any

import pytest
from pairs import RELAY, TERMS, WALL, Pair, ring, say, stream, through

from protocol import records, relay_messages
from protocol.channel import Channel
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.limits import (
    FRAME_BODY_MAX,
    HANDSHAKE_SECONDS,
    IDLE_SECONDS,
    MESSAGE_SIZE_MAX,
    PAGE_MESSAGES_MAX,
    PAGE_SIZE_MAX,
    SILENCE_SECONDS_MAX,
    SILENCE_SECONDS_MIN,
)
from protocol.mailbox import BEGINNING
from protocol.relay_handshake import Called, Terms
from protocol.relay_messages import (
    Append,
    Appended,
    Close,
    Meet,
    Message,
    Met,
    Page,
    Read,
    Reason,
    Refused,
    Rekey,
    Type,
)
from protocol.relaying import REQUESTS_MAX, Event, Phase, RelayConnection

HANDSHAKE = ["-> HANDSHAKE", "<- HANDSHAKE"]
TOPIC, OTHER_TOPIC, SIGNATURE, TOKEN, HASH = b"t" * 32, b"o" * 32, b"s" * 64, b"k" * 32, b"h" * 32
READ, MEET = Read(TOPIC, after=0, wait_seconds=0), Meet(TOKEN, wait_seconds=60)
APPEND = Append(TOPIC, SIGNATURE, days=30, message=b"sealed" * 700)
EMPTY = Page(0, BEGINNING.hash, first=1, newest=0, messages=())
PAGE = Page(0, BEGINNING.hash, first=1, newest=2, messages=(b"one", b"two" * 100))


class Shelf:
    """A relay in the smallest number of lines: one topic, no signatures, nobody to meet but the first to come."""

    def __init__(self) -> None:
        self.held: list[bytes] = []

    def __call__(self, end: RelayConnection, event: Event) -> None:
        match event:
            case Append(message=message):
                if message not in self.held:
                    self.held.append(message)
                end.send(Appended(self.held.index(message) + 1))
            case Read(after=after):
                held = tuple(self.held[after:])
                hash = BEGINNING.hash if after == 0 else HASH
                end.send(Page(min(after, len(self.held)), hash, 1, len(self.held), held))
            case Meet():
                end.send(Met(leads=True))
            case Close() if not end.calls:
                end.close()
            case _:
                pass


def content(message: Message) -> bytes:
    return b"".join(relay_messages.encode(message))


def tell(pair: Pair[RelayConnection], side: str, data: bytes) -> list[Event]:
    """What the other end makes of a record that this one sends."""
    source, target = (pair.initiator, pair.responder) if side == "caller" else (pair.responder, pair.initiator)
    return target.receive(say(source, data), pair.now)


def asked(*requests: Read | Append | Meet) -> Pair[RelayConnection]:
    """A caller that awaits the answers to these."""
    pair = through()
    for request in requests:
        pair.initiator.send(request)
    return pair.pump().forget()


# Whole conversations


def talk(piece: int) -> Pair[RelayConnection]:
    """Everything that can be asked of a relay, in one session."""
    shelf = Shelf()
    large = Append(TOPIC, SIGNATURE, days=30, message=bytes(range(256)) * 600)

    def also(end: RelayConnection, event: Any) -> None:
        shelf(end, event)
        match event:
            case Terms():
                end.send(READ)
                end.send(APPEND)
                end.send(large)
                end.send(APPEND)
            case Appended(2):
                end.send(READ)
                end.send(Read(TOPIC, after=7, wait_seconds=240))
                end.send(MEET)
            case _:
                pass

    return ring(also=also, piece=piece).pump()


def test_a_caller_reads_appends_and_is_joined() -> None:
    pair = talk(2**20)
    large = bytes(range(256)) * 600
    assert pair.transcript == [
        *HANDSHAKE,
        "-> READ",
        "-> APPEND",
        "-> PART",
        "-> APPEND",
        *["-> PART"] * 3,
        "-> APPEND",
        "-> PART",
        "<- PAGE",
        "<- APPENDED",
        "<- APPENDED",
        "<- APPENDED",
        "-> READ",
        "-> READ",
        "-> MEET",
        "<- PAGE",
        "<- MESSAGE",
        "<- PART",
        "<- MESSAGE",
        *["<- PART"] * 3,
        "<- PAGE",
        "<- MET",
    ]
    assert pair.heard(pair.initiator) == [
        TERMS,
        EMPTY,
        Appended(1),
        Appended(2),
        Appended(1),
        Page(0, BEGINNING.hash, 1, 2, (APPEND.message, large)),
        Page(2, HASH, 1, 2, ()),
        Met(leads=True),
    ]
    called, *requests = pair.heard(pair.responder)
    assert isinstance(called, Called)
    assert requests[:4] == [READ, APPEND, Append(TOPIC, SIGNATURE, 30, large), APPEND]
    assert requests[4:] == [READ, Read(TOPIC, 7, 240), MEET]
    assert pair.initiator.phase is pair.responder.phase is Phase.MET


def test_the_same_stream_gives_the_same_events_byte_by_byte() -> None:
    whole, bytewise = talk(2**20), talk(1)
    assert whole.transcript == bytewise.transcript
    assert whole.streams == bytewise.streams
    for end in ("initiator", "responder"):
        assert whole.heard(getattr(whole, end)) == bytewise.heard(getattr(bytewise, end))


def test_what_the_relay_says_behind_its_answer_is_heard() -> None:
    pair = ring()
    (called,) = pair.responder.receive(pair.take("->", pair.initiator), 0.0)
    assert isinstance(called, Called)
    pair.responder.accept(TERMS, 0.0)
    pair.responder.close()
    assert pair.initiator.receive(pair.take("<-", pair.responder), 0.0) == [TERMS, Close()]
    assert pair.initiator.ended


def test_answers_come_in_the_order_of_the_requests() -> None:
    pair = asked(READ, APPEND, READ)
    for answer in (EMPTY, Refused(Reason.UNSIGNED), PAGE):
        pair.responder.send(answer)
    assert pair.pump().heard(pair.initiator) == [EMPTY, Refused(Reason.UNSIGNED), PAGE]


def test_every_page_has_its_own_messages() -> None:
    pair = asked(READ, Read(TOPIC, 2, 0))
    pages = [PAGE, Page(2, HASH, 1, 4, (b"three", b"four"))]
    for page in pages:
        pair.responder.send(page)
    assert pair.pump().heard(pair.initiator) == pages


def test_a_reason_of_a_later_version_is_a_failure() -> None:
    assert tell(asked(READ), "relay", b"\x07\0\0\3\x81\x18\x63") == [Refused(Reason.FAILED)]


def test_what_waits_is_counted_until_it_is_sent() -> None:
    pair = through()
    assert pair.initiator.unsent_size == 0
    pair.initiator.send(MEET)
    assert pair.initiator.unsent_size == 4 + 1 + 34 + 2
    assert len(pair.initiator.data_to_send(0.0)) == 18 + 256 + 16
    assert pair.initiator.unsent_size == 0


@pytest.mark.parametrize("size", [1, FRAME_BODY_MAX, FRAME_BODY_MAX + 1, MESSAGE_SIZE_MAX])
def test_a_message_of_any_size_arrives_whole(size: int) -> None:
    append, page = Append(TOPIC, SIGNATURE, 1, b"x" * size), Page(6, HASH, 3, 7, (b"y" * size,))
    pair = asked(Read(TOPIC, 6, 0))
    pair.responder.send(page)
    pair.initiator.send(append)
    pair.pump()
    assert (pair.heard(pair.initiator), pair.heard(pair.responder)) == ([page], [append])


def test_the_longest_page_arrives_whole() -> None:
    page = Page(0, BEGINNING.hash, 1, 2**53, (b"z" * (PAGE_SIZE_MAX // PAGE_MESSAGES_MAX),) * PAGE_MESSAGES_MAX)
    pair = asked(READ)
    pair.responder.send(page)
    assert pair.pump().heard(pair.initiator) == [page]


# Meeting


def test_what_comes_behind_met_is_somebody_elses_and_handed_on_as_it_is() -> None:
    for piece in (1, 2**20):
        pair = asked(READ, MEET)
        pair.responder.send(EMPTY)
        pair.responder.send(Met(leads=False))
        met = pair.responder.data_to_send(0.0)
        raw = stream("the other caller")(700)
        heard, at = [], 0
        while pair.initiator.phase is Phase.OPEN:
            heard += pair.initiator.receive((met + raw)[at : at + piece], 0.0)
            at += piece
        assert heard == [EMPTY, Met(leads=False)]
        assert pair.initiator.leftover + (met + raw)[at:] == raw
        for end in (pair.initiator, pair.responder):
            assert end.phase is Phase.MET
            assert end.data_to_send(0.0) == b""
            with pytest.raises(RemoteProtocolError, match="end of the stream"):
                end.receive(raw, 0.0)
            with pytest.raises(LocalProtocolError):
                end.send(READ if end.calls else EMPTY)


def test_nothing_is_said_in_a_record_behind_met() -> None:
    with pytest.raises(RemoteProtocolError, match="end of the stream"):
        tell(asked(MEET), "relay", content(Met(leads=True)) + content(Rekey()))


def test_nothing_is_asked_behind_a_meeting() -> None:
    for request in (READ, APPEND, MEET):
        pair = asked(MEET)
        with pytest.raises(LocalProtocolError):
            pair.initiator.send(request)
        assert pair.initiator.data_to_send(0.0) == b""
        with pytest.raises(RemoteProtocolError, match="had to wait"):
            tell(pair, "caller", content(request))


def test_who_met_nobody_asks_on() -> None:
    pair = asked(MEET)
    pair.responder.send(Refused(Reason.NOBODY))
    pair.pump()
    pair.initiator.send(READ)
    pair.pump()
    assert pair.heard(pair.responder) == [READ]


def test_a_key_is_not_changed_behind_the_last_word() -> None:
    pair = asked(MEET)
    pair.now = 2 * 3600.0
    pair.responder.send(Met(leads=True))
    assert pair.pump().transcript == ["<- MET"]
    pair = through()
    pair.now = 2 * 3600.0
    pair.initiator.close()
    assert pair.pump().transcript == ["-> CLOSE"]


# Messages out of place

EXAMPLES: dict[Type, bytes] = {
    Type.MESSAGE: b"\x03\0\0\2\x81\1",
    Type.PART: b"\x04\0\0\1x",
    **{
        Type(content(message)[0]): content(message)
        for message in (READ, EMPTY, APPEND, Appended(1), Refused(Reason.FULL), MEET, Met(True), Rekey(), Close())
    },
}
ALLOWED = {
    "caller": {"READ", "APPEND", "PART", "MEET", "REKEY", "CLOSE"},
    "relay": {"PAGE", "MESSAGE", "PART", "APPENDED", "REFUSED", "MET", "REKEY", "CLOSE"},
}
ASKS_FIRST = {Type.PAGE: READ, Type.APPENDED: APPEND, Type.REFUSED: APPEND, Type.MET: MEET}


@pytest.mark.parametrize("kind", list(Type), ids=lambda kind: kind.name)
@pytest.mark.parametrize("side", ["caller", "relay"])
def test_a_message_is_heard_in_its_place_and_refused_in_every_other(side: str, kind: Type) -> None:
    pair = asked(*([ASKS_FIRST[kind]] if kind in ASKS_FIRST else []))
    if kind.name not in ALLOWED[side]:
        with pytest.raises(RemoteProtocolError, match="out of place"):
            tell(pair, side, EXAMPLES[kind])
        return
    match kind:
        case Type.MESSAGE | Type.PART:  # in place, but nothing was announced
            with pytest.raises(RemoteProtocolError, match="of no"):
                tell(pair, side, EXAMPLES[kind])
        case Type.REKEY:
            assert tell(pair, side, EXAMPLES[kind]) == []
        case _:
            (event,) = tell(pair, side, EXAMPLES[kind])
            assert content(event) == EXAMPLES[kind]  # type: ignore[arg-type]  # neither Called nor Terms


@pytest.mark.parametrize("kind", [Type.PAGE, Type.APPENDED, Type.REFUSED, Type.MET], ids=lambda kind: kind.name)
@pytest.mark.parametrize("request_", [None, READ, APPEND, MEET], ids=lambda request: type(request).__name__)
def test_an_answer_to_what_was_not_asked_is_refused(kind: Type, request_: Read | Append | Meet | None) -> None:
    pair = asked(*([request_] if request_ else []))
    fits = request_ is not None and (kind is Type.REFUSED or type(request_) is type(ASKS_FIRST[kind]))
    if fits:
        assert len(tell(pair, "relay", EXAMPLES[kind])) == 1
        pair = asked()
    with pytest.raises(RemoteProtocolError, match="not asked"):
        tell(pair, "relay", EXAMPLES[kind])


@pytest.mark.parametrize("kind", sorted(set(Type) - {Type.PART}), ids=lambda kind: kind.name)
@pytest.mark.parametrize("side", ["caller", "relay"])
def test_a_message_that_another_interrupts_is_refused(side: str, kind: Type) -> None:
    long = Append(TOPIC, SIGNATURE, 1, b"x" * (FRAME_BODY_MAX + 1))
    frames = list(relay_messages.encode(long if side == "caller" else PAGE))
    for cut in (1, 2):  # behind the head; behind a part, or the head of a message
        pair = asked(READ)
        for one in frames[:cut]:
            assert tell(pair, side, one) == []
        if side == "relay" and kind is Type.MESSAGE and cut == 1:
            continue  # what the page is waiting for
        with pytest.raises(RemoteProtocolError, match=r"inside another|out of place"):
            tell(pair, side, EXAMPLES[kind])


@pytest.mark.parametrize("body", [b"\x00\x00\x00\x00", b"\x0a\x00\x00\x00", b"\xff\x00\x00\x00", b"\x10\x00\x00"])
@pytest.mark.parametrize("side", ["caller", "relay"])
def test_a_frame_of_no_known_type_or_cut_short_is_refused(side: str, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="frame"):
        tell(through(), side, body)


@pytest.mark.parametrize("kind", [Type.REKEY, Type.CLOSE], ids=lambda kind: kind.name)
def test_a_bare_message_with_a_body_is_refused(kind: Type) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed"):
        tell(through(), "caller", bytes([kind, 0, 0, 1, 0]))


# Relays that lie, callers that want too much


@pytest.mark.parametrize(
    ("after", "page"),
    [
        (5, Page(4, HASH, 1, 9, (b"x",))),  # goes back
        (5, Page(6, HASH, 1, 9, (b"x",))),  # skips what it still has
        (5, Page(9, HASH, 1, 9, ())),
        (0, Page(5, HASH, 4, 9, (b"x",))),  # skips more than is gone
        (0, Page(9, HASH, 4, 9, ())),
        (12, Page(8, HASH, 1, 9, (b"x",))),  # the reader knows more: it begins behind the newest
        (12, Page(0, BEGINNING.hash, 1, 9, (b"x",))),
    ],
)
def test_a_page_that_begins_where_nobody_asked_is_refused(after: int, page: Page) -> None:
    with pytest.raises(RemoteProtocolError, match="not asked"):
        tell(asked(Read(TOPIC, after, 0)), "relay", content(page))


@pytest.mark.parametrize(
    ("after", "page"),
    [
        (5, Page(5, HASH, 1, 9, (b"x",))),
        (9, Page(9, HASH, 1, 9, ())),
        (0, Page(3, HASH, 4, 9, (b"x",))),
        (3, Page(3, HASH, 4, 9, (b"x",) * 6)),
        (0, Page(9, HASH, 10, 9, ())),
        (12, Page(9, HASH, 1, 9, ())),
        (12, EMPTY),
    ],
)
def test_a_page_that_begins_where_it_must_is_taken(after: int, page: Page) -> None:
    assert tell(asked(Read(TOPIC, after, 0)), "relay", content(page)) == [page]


@pytest.mark.parametrize(
    "numbers", [(10, 3, 9, 0), (1, 3, 9, 1), (9, 11, 9, 0), (6, 3, 9, 4), (6, 3, 9, 0), (0, 0, 9, 1)]
)
def test_a_page_whose_numbers_lie_is_refused(numbers: tuple[int, int, int, int]) -> None:
    base, first, newest, count = numbers
    lie = Page(base, HASH, first, newest, (b"x",) * count)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        tell(asked(Read(TOPIC, base, 0)), "relay", next(relay_messages.encode(lie)))


def test_a_page_longer_than_a_page_is_refused_before_its_last_message_comes() -> None:
    half = b"x" * (PAGE_SIZE_MAX // 2)
    frames = list(relay_messages.encode(Page(0, BEGINNING.hash, 1, 3, (half, half, b"y"))))
    pair = asked(READ)
    for one in frames[:-2]:
        assert tell(pair, "relay", one) == []
    with pytest.raises(RemoteProtocolError, match="longer than a page"):
        tell(pair, "relay", frames[-2])


def test_more_messages_than_announced_are_refused() -> None:
    page = content(Page(0, BEGINNING.hash, 1, 9, (b"x",)))
    with pytest.raises(RemoteProtocolError, match="no page"):
        tell(asked(READ), "relay", page + EXAMPLES[Type.MESSAGE])


@pytest.mark.parametrize("part", [b"", b"x" * 11])
def test_parts_that_are_empty_or_too_many_are_refused(part: bytes) -> None:
    frames = bytes([Type.PART]) + len(part).to_bytes(3, "big") + part
    head = next(relay_messages.encode(Append(TOPIC, SIGNATURE, 1, b"x" * 10)))
    with pytest.raises(RemoteProtocolError, match="does not fit"):
        tell(through(), "caller", head + frames)
    pair = through()
    whole = content(Append(TOPIC, SIGNATURE, 1, b"x" * 10))
    with pytest.raises(RemoteProtocolError, match="part of no message"):
        tell(pair, "caller", whole + EXAMPLES[Type.PART])


def test_a_message_in_parts_of_one_byte_weighs_what_it_is_long() -> None:
    assembly = relay_messages.Assembly(5000)
    for _ in range(4999):
        assert assembly.add_untrusted(b"x") is None
    assert assembly.add_untrusted(b"y") == b"x" * 4999 + b"y"
    assert assembly._body.__sizeof__() < 2 * 5000


def test_only_so_many_requests_wait_and_one_more_is_refused() -> None:
    pair = asked(*[READ] * REQUESTS_MAX)
    with pytest.raises(LocalProtocolError):
        pair.initiator.send(READ)
    assert pair.initiator.data_to_send(0.0) == b""
    pair.responder.send(EMPTY)
    pair.pump()
    pair.initiator.send(READ)
    pair.pump()
    for request in (READ, APPEND, MEET):
        with pytest.raises(RemoteProtocolError, match="had to wait"):
            tell(asked(*[READ] * REQUESTS_MAX), "caller", content(request))


def test_a_caller_that_asks_and_asks_is_refused_within_one_read() -> None:
    pair = through()
    data = b"".join(say(pair.initiator, content(READ) * 5) for _ in range(REQUESTS_MAX))
    with pytest.raises(RemoteProtocolError, match="had to wait"):
        pair.responder.receive(data, 0.0)


# Strangers


def stranger(pair: Pair[RelayConnection], data: bytes) -> None:
    """These bytes and all that follow draw nothing."""
    assert pair.responder.receive(data, 0.0) == []
    assert pair.responder.receive(bytes(70_000), 0.0) == []
    assert pair.responder.data_to_send(0.0) == b""
    assert pair.responder.phase is Phase.SILENT


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n" + bytes(500), bytes(500), b"\xff" * 500])
def test_a_stranger_gets_no_byte(data: bytes) -> None:
    stranger(ring(), data)


def test_a_relay_says_nothing_before_a_first_message_has_opened() -> None:
    pair = ring()
    first = pair.take("->", pair.initiator)
    for at in range(len(first) - 1):
        assert pair.responder.receive(first[at : at + 1], 0.0) == []
        assert pair.responder.data_to_send(0.0) == b""
    (called,) = pair.responder.receive(first[-1:], 0.0)
    assert isinstance(called, Called)
    assert pair.responder.data_to_send(0.0) == b""  # nor before the owner has looked whether it is a replay
    pair.responder.accept(TERMS, 0.0)
    assert 0 < len(pair.responder.data_to_send(0.0)) <= 359


def test_a_replayed_call_opens_with_the_same_tag_and_its_refusal_draws_no_byte() -> None:
    pair = ring()
    first = pair.take("->", pair.initiator)
    tags = []
    for seed in ("one", "two"):
        relay = RelayConnection.listen(RELAY, entropy=stream(seed), now=0.0, wall=WALL)
        (called,) = relay.receive(first, 0.0)
        assert isinstance(called, Called)
        tags.append(called.replay_tag)
    assert tags[0] == tags[1]
    relay.refuse()
    assert relay.receive(bytes(1000), 0.0) == []
    assert relay.data_to_send(0.0) == b""


def test_who_speaks_before_it_is_answered_is_a_stranger_even_if_accepted_afterwards() -> None:
    pair = ring()
    assert len(pair.responder.receive(pair.take("->", pair.initiator), 0.0)) == 1
    assert pair.responder.receive(b"\0", 0.0) == []
    pair.responder.accept(TERMS, 0.0)
    assert pair.responder.data_to_send(0.0) == b""
    assert pair.responder.phase is Phase.SILENT


def test_a_broken_answer_ends_the_callers_session() -> None:
    pair = ring()
    for event in pair.responder.receive(pair.take("->", pair.initiator), 0.0):
        pair.react(pair.responder, event)
    answer = bytearray(pair.take("<-", pair.responder))
    answer[-1] ^= 1
    with pytest.raises(RemoteProtocolError):
        pair.initiator.receive(bytes(answer), 0.0)
    assert pair.initiator.data_to_send(0.0) == b""
    with pytest.raises(LocalProtocolError):
        pair.initiator.send(READ)


def test_a_relay_whose_address_holds_a_key_that_nobody_can_have_is_not_dialled() -> None:
    with pytest.raises(RemoteProtocolError, match="low-order"):
        RelayConnection.dial(bytes(32), entropy=stream("x"), now=0.0, wall=WALL)


def test_a_session_says_nothing_to_another_session_of_the_same_ends() -> None:
    one, two = through(seed="one"), through(seed="two")
    with pytest.raises(RemoteProtocolError):
        two.responder.receive(say(one.initiator, content(READ)), 0.0)


def test_a_record_sent_twice_or_out_of_order_is_refused() -> None:
    for order in ([0, 0], [1, 0], [1]):
        pair = through()
        sent = [say(pair.initiator, content(READ)) for _ in range(2)]
        with pytest.raises(RemoteProtocolError):
            [pair.responder.receive(sent[number], 0.0) for number in order]


# Time


def test_a_caller_waits_ten_seconds_and_a_relay_a_random_time() -> None:
    assert ring().initiator.deadline == HANDSHAKE_SECONDS
    deadlines = {
        RelayConnection.listen(RELAY, entropy=stream(str(n)), now=100.0, wall=WALL).deadline - 100.0 for n in range(64)
    }
    assert all(SILENCE_SECONDS_MIN <= deadline <= SILENCE_SECONDS_MAX for deadline in deadlines)
    assert len(deadlines) > 60


def test_a_stranger_cannot_move_the_deadline() -> None:
    pair = ring()
    before = pair.responder.deadline
    for second in range(100):
        pair.responder.receive(b"x" * 100, float(second))
    assert pair.responder.deadline == before


def test_an_open_session_ends_when_nothing_is_heard() -> None:
    pair = through()
    assert pair.initiator.deadline == pair.responder.deadline == IDLE_SECONDS
    pair.now = 7.0
    pair.initiator.send(READ)
    pair.pump()
    assert (pair.initiator.deadline, pair.responder.deadline) == (IDLE_SECONDS, 7.0 + IDLE_SECONDS)


# The end of the stream


def test_after_close_its_sender_says_nothing_and_the_other_may_finish() -> None:
    pair = asked(READ)
    pair.initiator.close()
    pair.initiator.close()
    pair.initiator.send(READ)
    pair.pump()
    assert (pair.transcript, pair.heard(pair.responder)) == (["-> CLOSE"], [Close()])
    assert pair.responder.ended
    pair.responder.send(EMPTY)
    pair.responder.close()
    assert pair.pump().heard(pair.initiator) == [EMPTY, Close()]


def test_data_after_the_end_of_the_stream_is_refused() -> None:
    close, more = content(Close()), content(READ)
    with pytest.raises(RemoteProtocolError, match="end of the stream"):
        tell(through(), "caller", close + more)
    pair = through()
    assert tell(pair, "caller", close) == [Close()]
    with pytest.raises(RemoteProtocolError, match="end of the stream"):
        tell(pair, "caller", more)


def test_a_stream_that_is_cut_looks_unlike_one_that_was_closed() -> None:
    pair = through()
    pair.initiator.send(APPEND)
    data = pair.take("->", pair.initiator)
    assert pair.responder.receive(data[:-1], 0.0) == []
    assert not pair.responder.ended


# Our own side


def test_what_is_said_at_the_wrong_time_or_by_the_wrong_end_is_our_own_fault() -> None:
    pair = ring()
    for end in (pair.initiator, pair.responder):
        end.close()
        with pytest.raises(LocalProtocolError):
            end.send(READ)
    for end in (pair.initiator, pair.responder, through().initiator, through().responder):
        with pytest.raises(LocalProtocolError):
            end.accept(TERMS, 0.0)
    pair = asked(READ)
    for end, message in ((pair.initiator, EMPTY), (pair.responder, READ), (pair.responder, Appended(1))):
        with pytest.raises(LocalProtocolError):
            end.send(message)
        assert end.data_to_send(0.0) == b""


def test_a_relay_that_would_lie_is_stopped_on_our_side() -> None:
    for page in (Page(4, HASH, 1, 9, (b"x",)), Page(6, HASH, 1, 9, (b"x",))):
        pair = asked(Read(TOPIC, 5, 0))
        with pytest.raises(LocalProtocolError):
            pair.responder.send(page)


# Rekey


@pytest.mark.parametrize("direction", ["->", "<-"])
def test_keys_are_changed_by_the_hour(direction: str) -> None:
    pair = asked(*[READ] * 4) if direction == "<-" else through()
    for hour in (0.5, 1.0, 1.5, 2.5):
        pair.now = hour * 3600
        if direction == "->":
            pair.initiator.send(READ)
        else:
            pair.responder.send(EMPTY)
        pair.pump()
    name = "-> READ" if direction == "->" else "<- PAGE"
    assert pair.transcript == [name, name, f"{direction} REKEY", name, name, f"{direction} REKEY"]
    other = pair.responder if direction == "->" else pair.initiator
    assert pair.heard(other) == [READ if direction == "->" else EMPTY] * 4


def test_a_key_is_changed_behind_a_message_and_never_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REKEY_RECORDS", 3)
    large = Append(TOPIC, SIGNATURE, 1, bytes(5 * FRAME_BODY_MAX))
    pair = through(piece=1000)
    for _ in range(3):
        pair.initiator.send(large)
        pair.initiator.send(READ)
        pair.pump()
    assert pair.heard(pair.responder) == [large, READ] * 3
    one = ["-> APPEND", *["-> PART"] * 5, "-> READ"]
    assert pair.transcript == [*one, *one, "-> REKEY", *one]


# Appearance, and the channel beneath


def test_no_bit_of_the_first_512_bytes_is_the_same_in_64_sessions() -> None:
    streams: dict[str, list[bytes]] = {"->": [], "<-": []}
    for number in range(64):
        pair = ring(seed=f"session {number}", also=Shelf()).pump()
        pair.initiator.send(READ)
        pair.initiator.send(APPEND)
        pair.pump()
        pair.initiator.send(READ)
        pair.pump()
        for arrow, data in pair.streams.items():
            streams[arrow].append(data[:512])
    for seen in streams.values():
        assert all(len(data) == 512 for data in seen)
        ones, zeros = b"\xff" * 512, bytes(512)
        for data in seen:
            ones, zeros = bytes(map(and_, ones, data)), bytes(map(or_, zeros, data))
        assert (ones, zeros) == (bytes(512), b"\xff" * 512)


def test_what_is_asked_and_what_is_answered_have_the_sizes_of_records() -> None:
    sizes = set()
    for request in (READ, Read(OTHER_TOPIC, 2**53, 240), MEET):
        pair = through()
        pair.initiator.send(request)
        sizes.add(len(pair.initiator.data_to_send(0.0)))
    assert sizes == {18 + 256 + 16}


def test_a_channel_that_has_nothing_to_say_says_nothing_not_even_that_its_key_is_old() -> None:
    channel = through().initiator._channel
    assert isinstance(channel, Channel)
    assert channel.data_to_send(10 * 3600.0, ending=False) == b""
    assert (channel.unsent_size, channel.leftover) == (0, b"")
