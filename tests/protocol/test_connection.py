"""Connections: whole conversations between two real ends, and everything that must not be said in one."""

from operator import and_, or_

import pytest
from pairs import DIGEST, WALL, Pair, join, local_of, met, say, secret_of, stream, written

from protocol import messages, records
from protocol.connection import Connection, Phase
from protocol.entry import LogClass
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.events import Differences, Ended, Established, Event, SnapshotWanted
from protocol.frames import Type
from protocol.frontier import LogState, State, item
from protocol.handshake import Opened, RemoteEnd
from protocol.limits import (
    HANDSHAKE_SECONDS,
    IDLE_SECONDS,
    RECONCILE_ROUNDS_MAX,
    RUN_ENTRIES_MAX,
    SILENCE_SECONDS_MAX,
    SILENCE_SECONDS_MIN,
    Limits,
)
from protocol.mask import Mode
from protocol.messages import (
    Close,
    Decline,
    Digest,
    End,
    Joined,
    Message,
    Positions,
    Probe,
    Rekey,
    RunMessage,
    Same,
    Totals,
    Want,
    Welcome,
)
from protocol.reconcile import Snapshot

HANDSHAKE = ["-> HANDSHAKE", "<- HANDSHAKE", "-> HANDSHAKE"]
OTHER_DIGEST = b"\xee" * 32


def logs(numbers: range, high: int = 3) -> list[LogState]:
    return [LogState(b"\x02" + n.to_bytes(16, "big"), high, bytes([high]) * 32, State.ORDINARY) for n in numbers]


def snapshot_of(end: Connection, states: list[LogState]) -> Snapshot:
    return Snapshot.seal((0, item(end.handshake_hash, state)) for state in states)


# Whole conversations


def test_two_ends_in_sync_say_three_messages_and_nothing_else() -> None:
    pair = join().pump()
    assert pair.transcript == HANDSHAKE
    us, them = local_of("initiator"), local_of("responder")
    assert pair.heard(pair.initiator) == [Established(RemoteEnd(them.static.public, them.start_nonce, DIGEST))]
    opened, established = pair.heard(pair.responder)
    assert isinstance(opened, Opened)
    assert opened.secret == secret_of()
    assert established == Established(RemoteEnd(us.static.public, us.start_nonce, DIGEST))
    assert pair.initiator.handshake_hash == pair.responder.handshake_hash != b""
    assert sum(map(len, pair.streams.values())) <= 1536


def test_two_ends_that_differ_reconcile_exchange_and_agree() -> None:
    common, only_ours, only_theirs = logs(range(40)), logs(range(40, 43)), logs(range(50, 52))
    changed = logs(range(5, 6), high=4)
    ours, theirs = [*common, *only_ours], [*common[:5], *changed, *common[6:], *only_theirs]
    run = written([b"a" * 20, b"b" * 20])

    def also(end: Connection, event: Event) -> None:
        match event:
            case SnapshotWanted():
                end.answer(snapshot_of(end, theirs))
            case Differences(keys):
                held = {state.key: state for state in ours}
                nothing = (0, None, State.ORDINARY)
                end.send(Positions(tuple(held.get(key) or LogState(key, *nothing) for key in keys)))
            case Positions(positions) if end is pair.responder:
                end.send(Totals(len(run)))
                end.send(Same((positions[0].key,)))
                end.send(Positions((LogState(positions[1].key, 0, None, State.ORDINARY),)))
                end.send(RunMessage(run))
                end.send(End((positions[2].key,)))
            case Positions():
                end.send(RunMessage(run))
            case End():
                end.send(Digest(OTHER_DIGEST, question=True))
            case Digest(_, question=True):
                end.send(Digest(OTHER_DIGEST, question=False))
            case Digest():
                end.close()
            case Ended() if end is pair.responder:
                end.close()
            case _:
                pass

    pair = met(also=also)
    pair.initiator.reconcile(snapshot_of(pair.initiator, ours))
    pair.pump()
    assert pair.transcript == [
        "-> RECONCILE_OPEN",
        "<- RECONCILE",
        "-> POSITION",
        "<- TOTALS",
        "<- SAME",
        "<- POSITION",
        "<- RUN",
        "<- PAYLOADS",
        "<- END",
        "-> RUN",
        "-> PAYLOADS",
        "-> DIGEST",
        "<- DIGEST",
        "-> CLOSE",
        "<- CLOSE",
    ]
    differing = tuple(sorted(state.key for state in [*changed, *only_ours, *only_theirs]))
    nothing = LogState(differing[1], 0, None, State.ORDINARY)
    assert pair.heard(pair.initiator) == [
        Differences(differing),
        Totals(2),
        Same((differing[0],)),
        Positions((nothing,)),
        RunMessage(run),
        End((differing[2],)),
        Digest(OTHER_DIGEST, question=False),
        Ended(),
    ]
    assert pair.heard(pair.responder)[2:] == [RunMessage(run), Digest(OTHER_DIGEST, question=True), Ended()]


def test_a_newcomer_shows_its_claim_and_is_handed_the_secrets() -> None:
    claim = written([b"claim" * 8], log_class=LogClass.MEMBERSHIP, kind=2)
    epochs = (b"\x01" * 32, b"\x02" * 32)

    def also(end: Connection, event: Event) -> None:
        match event:
            case Established() if end is pair.initiator:
                end.send(RunMessage(claim))
            case RunMessage():
                end.send(Welcome(epochs))
            case Welcome():
                end.send(Joined())
                end.close()
            case Ended() if end is pair.responder:
                end.close()
            case _:
                pass

    pair = join(Mode.JOIN, digests=(None, None), also=also)
    pair.pump()
    assert pair.transcript == [
        *HANDSHAKE,
        "-> RUN",
        "-> PAYLOADS",
        "<- WELCOME",
        "-> JOINED",
        "-> CLOSE",
        "<- CLOSE",
    ]
    assert pair.heard(pair.responder)[2:] == [RunMessage(claim), Joined(), Ended()]
    assert pair.heard(pair.initiator)[1:] == [Welcome(epochs), Ended()]
    assert pair.initiator.phase is pair.responder.phase is Phase.ENDED


def test_the_same_stream_gives_the_same_events_byte_by_byte() -> None:
    ours, theirs = logs(range(60)), logs(range(30, 90))
    run = written([bytes([n]) * 700 for n in range(100)])

    def talk(piece: int) -> Pair:
        def also(end: Connection, event: Event) -> None:
            match event:
                case Established() if end is pair.initiator:
                    end.reconcile(snapshot_of(end, ours))
                case SnapshotWanted():
                    end.answer(snapshot_of(end, theirs))
                case Differences():
                    end.send(RunMessage(run))
                    end.close()
                case _:
                    pass

        pair = join(also=also, piece=piece)
        return pair.pump()

    whole, bytewise = talk(2**20), talk(1)
    assert whole.transcript == bytewise.transcript
    assert whole.streams == bytewise.streams
    for end in ("initiator", "responder"):
        assert whole.heard(getattr(whole, end)) == bytewise.heard(getattr(bytewise, end))
    assert RunMessage(run) in whole.heard(whole.responder)


def test_small_messages_that_wait_together_share_a_record() -> None:
    pair = met()
    for _ in range(10):
        pair.initiator.send(Totals(1))
    assert len(pair.initiator.data_to_send(0.0)) == 18 + 256 + 16


def test_what_waits_is_counted_until_it_is_sent() -> None:
    pair = met()
    assert pair.initiator.unsent_size == 0
    pair.initiator.send(Digest(DIGEST, question=True))
    assert pair.initiator.unsent_size == 4 + 1 + 34 + 1
    pair.pump()
    assert pair.initiator.unsent_size == 0


def test_a_message_longer_than_a_record_is_carried_in_several() -> None:
    run = written([bytes([n % 256]) * 1000 for n in range(1024)])
    pair = met()
    pair.initiator.send(RunMessage(run))
    pair.pump()
    assert pair.heard(pair.responder) == [RunMessage(run)]
    assert pair.transcript == ["-> RUN", *["-> PAYLOADS"] * 17]


# Messages out of place

RUN_BODY = messages.encode(RunMessage(written([b"x" * 20])))[0][4:]
KEY = b"\x02" * 17
EXAMPLES: dict[Type, tuple[Message | None, bytes]] = (
    {  # what a frame says, and its body
        Type.RECONCILE_OPEN: (None, b"\x61"),
        Type.RECONCILE: (None, b"\x61"),
        Type.RUN: (None, RUN_BODY),
        Type.PAYLOADS: (None, b"\x81\x40"),
        Type.REKEY: (None, b""),
    }
    | {
        Type(messages.encode(message)[0][0]): (message, messages.encode(message)[0][4:])
        for message in (
            Positions((LogState(KEY, 0, None, State.ORDINARY),)),
            Same((KEY,)),
            Decline((KEY,)),
            End((KEY,)),
            Probe(KEY, 1, None),
            Want(KEY, 1, 2),
            Totals(1),
            Digest(DIGEST, True),
            Welcome((b"\x01" * 32,)),
            Joined(),
            Close(),
        )
    }
)
TALK = {"RECONCILE", "POSITION", "SAME", "DECLINE", "END", "PROBE", "WANT", "RUN", "PAYLOADS", "TOTALS", "DIGEST"}
ALLOWED = {
    (Mode.MEMBER, "initiator"): {"RECONCILE_OPEN", *TALK, "REKEY", "CLOSE"},
    (Mode.MEMBER, "responder"): {*TALK, "REKEY", "CLOSE"},
    (Mode.JOIN, "initiator"): {"RUN", "PAYLOADS", "JOINED", "REKEY", "CLOSE"},
    (Mode.JOIN, "responder"): {"WELCOME", "REKEY", "CLOSE"},
    (Mode.REKEY, "initiator"): {"REKEY", "CLOSE"},
    (Mode.REKEY, "responder"): {"REKEY", "CLOSE"},
}


def receive(pair: Pair, side: str, content: bytes) -> list[Event]:
    """What the other end makes of a record that this one sends."""
    source, target = (pair.initiator, pair.responder) if side == "initiator" else (pair.responder, pair.initiator)
    return target.receive(say(source, content), pair.now)


@pytest.mark.parametrize("kind", list(Type), ids=lambda kind: kind.name)
@pytest.mark.parametrize("side", ["initiator", "responder"])
@pytest.mark.parametrize("mode", [Mode.MEMBER, Mode.JOIN, Mode.REKEY], ids=lambda mode: mode.name)
def test_a_message_is_heard_in_its_place_and_refused_in_every_other(mode: Mode, side: str, kind: Type) -> None:
    message, body = EXAMPLES[kind]
    pair = met(mode)
    content = bytes([kind]) + len(body).to_bytes(3, "big") + body
    if kind.name not in ALLOWED[mode, side]:
        with pytest.raises(RemoteProtocolError, match="out of place"):
            receive(pair, side, content)
        return
    match kind:
        case Type.RECONCILE | Type.PAYLOADS:  # in place, but nothing was opened
            with pytest.raises(RemoteProtocolError, match=r"not opened|without a run"):
                receive(pair, side, content)
        case Type.RECONCILE_OPEN:
            assert receive(pair, side, content) == [SnapshotWanted()]
        case Type.CLOSE:
            assert receive(pair, side, content) == [Ended()]
        case Type.RUN | Type.REKEY:
            assert receive(pair, side, content) == []
        case _:
            assert receive(pair, side, content) == [message]


@pytest.mark.parametrize("body", [b"\x00\x00\x00\x00", b"\x11\x00\x00\x00", b"\xff\x00\x00\x00", b"\x10\x00\x00"])
def test_a_frame_of_no_known_type_or_cut_short_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="frame"):
        receive(met(), "initiator", body)


@pytest.mark.parametrize("kind", sorted(set(Type) - {Type.PAYLOADS}), ids=lambda kind: kind.name)
def test_a_run_that_another_message_interrupts_is_refused(kind: Type) -> None:
    pair = met()
    body = EXAMPLES[kind][1]
    assert receive(pair, "initiator", b"\x09" + len(RUN_BODY).to_bytes(3, "big") + RUN_BODY) == []
    with pytest.raises(RemoteProtocolError, match=r"run|out of place"):
        receive(pair, "initiator", bytes([kind]) + len(body).to_bytes(3, "big") + body)


def test_a_reconciliation_opened_twice_is_refused() -> None:
    pair = met()
    pair.initiator.reconcile(Snapshot.seal([]))
    pair.initiator.reconcile(Snapshot.seal([]))
    with pytest.raises(RemoteProtocolError, match="twice"):
        pair.pump()


def test_a_second_reconciliation_after_the_first_is_welcome() -> None:
    def also(end: Connection, event: Event) -> None:
        if isinstance(event, SnapshotWanted):
            end.answer(snapshot_of(end, logs(range(3))))

    pair = met(also=also)
    for _ in range(2):
        pair.initiator.reconcile(Snapshot.seal([]))
        pair.pump()
    keys = tuple(state.key for state in logs(range(3)))
    assert pair.heard(pair.initiator) == [Differences(keys), Differences(keys)]


def test_a_reconciliation_goes_on_while_it_brings_something() -> None:
    limits = Limits(reconcile_frame_max=4096)
    held = logs(range(10_000))

    def also(end: Connection, event: Event) -> None:
        if isinstance(event, SnapshotWanted):
            end.answer(snapshot_of(end, held))

    pair = met(limits=limits, also=also)
    pair.initiator.reconcile(Snapshot.seal([]))
    pair.pump()
    (differences,) = pair.heard(pair.initiator)
    assert differences == Differences(tuple(state.key for state in held))
    assert pair.transcript.count("<- RECONCILE") > RECONCILE_ROUNDS_MAX


def test_a_reconciliation_that_brings_nothing_is_ended() -> None:
    pair = met()
    receive(pair, "initiator", messages.encode(messages.Reconcile(b"\x61", opens=True))[0])
    pair.responder.answer(Snapshot.seal([]))
    question = messages.encode(messages.Reconcile(b"\x61", opens=False))[0]
    for _ in range(RECONCILE_ROUNDS_MAX - 1):
        receive(pair, "initiator", question)
    with pytest.raises(RemoteProtocolError, match="does not end"):
        receive(pair, "initiator", question)


def test_a_malformed_reconciliation_is_refused_by_both_ends() -> None:
    pair = met()
    receive(pair, "initiator", messages.encode(messages.Reconcile(b"\x61\xff", opens=True))[0])
    with pytest.raises(RemoteProtocolError):
        pair.responder.answer(Snapshot.seal([]))
    pair = met()
    pair.initiator.reconcile(Snapshot.seal([]))
    with pytest.raises(RemoteProtocolError):
        receive(pair, "responder", messages.encode(messages.Reconcile(b"\x61\xff", opens=False))[0])


# Strangers


def stranger(pair: Pair, data: bytes) -> None:
    """These bytes and all that follow draw nothing."""
    assert pair.responder.receive(data, 0.0) == []
    assert pair.responder.receive(bytes(70_000), 0.0) == []
    assert pair.responder.data_to_send(0.0) == b""
    assert pair.responder.phase is Phase.SILENT


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n" + bytes(500), bytes(500), b"\xff" * 500])
def test_a_stranger_gets_no_byte(data: bytes) -> None:
    stranger(join(), data)


def test_an_initiator_with_another_secret_gets_no_byte() -> None:
    other = secret_of(seed="other")
    dialled = Connection.initiate(other, local_of("x"), None, entropy=stream("x"), now=0.0, wall=WALL, limits=Limits())
    stranger(join(), dialled.data_to_send(0.0))


def test_a_replayed_first_message_opens_with_the_same_tag_and_its_refusal_draws_no_byte() -> None:
    pair = join()
    first = pair.take("->", pair.initiator)
    tags = []
    for seed in ("one", "two"):
        responder = Connection.respond([secret_of()], entropy=stream(seed), now=0.0, wall=WALL, limits=Limits())
        (opened,) = responder.receive(first, 0.0)
        assert isinstance(opened, Opened)
        tags.append(opened.replay_tag)
    assert tags[0] == tags[1]
    responder.refuse()
    assert responder.data_to_send(0.0) == b""
    assert responder.receive(bytes(1000), 0.0) == []
    assert responder.data_to_send(0.0) == b""


def test_who_speaks_before_it_is_answered_is_a_stranger_even_if_accepted_afterwards() -> None:
    pair = join()
    assert len(pair.responder.receive(pair.take("->", pair.initiator), 0.0)) == 1
    assert pair.responder.receive(b"\0", 0.0) == []
    pair.responder.accept(local_of("responder"), DIGEST)
    assert pair.responder.data_to_send(0.0) == b""
    assert pair.responder.phase is Phase.SILENT


def test_a_broken_third_message_draws_no_byte() -> None:
    pair = join()
    for event in pair.responder.receive(pair.take("->", pair.initiator), 0.0):
        pair.react(pair.responder, event)
    pair.initiator.receive(pair.take("<-", pair.responder), 0.0)
    third = bytearray(pair.take("->", pair.initiator))
    third[40] ^= 1
    stranger(pair, bytes(third))


def test_a_broken_second_message_ends_the_initiators_session() -> None:
    pair = join()
    for event in pair.responder.receive(pair.take("->", pair.initiator), 0.0):
        pair.react(pair.responder, event)
    second = bytearray(pair.take("<-", pair.responder))
    second[-1] ^= 1
    with pytest.raises(RemoteProtocolError):
        pair.initiator.receive(bytes(second), 0.0)
    assert pair.initiator.data_to_send(0.0) == b""


# Time


def test_an_initiator_waits_ten_seconds_and_a_responder_a_random_time() -> None:
    pair = join()
    assert pair.initiator.deadline == HANDSHAKE_SECONDS
    deadlines = {
        Connection.respond([], entropy=stream(str(n)), now=100.0, wall=WALL, limits=Limits()).deadline - 100.0
        for n in range(64)
    }
    assert all(SILENCE_SECONDS_MIN <= deadline <= SILENCE_SECONDS_MAX for deadline in deadlines)
    assert len(deadlines) > 60
    assert max(deadlines) - min(deadlines) > 0.8 * (SILENCE_SECONDS_MAX - SILENCE_SECONDS_MIN)


def test_a_stranger_cannot_move_the_deadline() -> None:
    pair = join()
    before = pair.responder.deadline
    for second in range(100):
        pair.responder.receive(b"x" * 100, float(second))
    assert pair.responder.deadline == before


def test_an_open_session_ends_when_nothing_is_heard() -> None:
    pair = join()
    pair.now = 5.0
    pair.pump()
    assert pair.initiator.deadline == pair.responder.deadline == 5.0 + IDLE_SECONDS
    pair.now = 7.0
    pair.initiator.send(Totals(1))
    pair.pump()
    assert (pair.initiator.deadline, pair.responder.deadline) == (5.0 + IDLE_SECONDS, 7.0 + IDLE_SECONDS)


# The end of the stream


def test_a_stream_that_is_cut_looks_unlike_one_that_was_closed() -> None:
    cut, closed = met(), met()
    cut.initiator.send(Totals(1))
    closed.initiator.send(Totals(1))
    closed.initiator.close()
    data = cut.take("->", cut.initiator)
    assert cut.responder.receive(data[:-1], 0.0) == []
    assert cut.responder.phase is Phase.OPEN
    closed.pump()
    assert closed.heard(closed.responder) == [Totals(1), Ended()]
    assert closed.responder.phase is Phase.ENDED


def test_after_the_end_of_a_stream_its_sender_says_nothing_and_the_other_may_finish() -> None:
    pair = met()
    pair.initiator.close()
    pair.initiator.close()
    pair.initiator.send(Totals(1))
    pair.pump()
    assert pair.transcript == ["-> CLOSE"]
    pair.responder.send(Totals(2))
    pair.pump()
    assert pair.heard(pair.initiator) == [Totals(2)]


def test_data_after_the_end_of_the_stream_is_refused() -> None:
    close, more = messages.encode(Close())[0], messages.encode(Totals(1))[0]
    with pytest.raises(RemoteProtocolError, match="end of the stream"):
        receive(met(), "initiator", close + more)
    pair = met()
    receive(pair, "initiator", close)
    with pytest.raises(RemoteProtocolError, match="end of the stream"):
        receive(pair, "initiator", more)


def test_nothing_is_sent_before_the_session_is_open() -> None:
    pair = join()
    for end in (pair.initiator, pair.responder):
        end.close()
        with pytest.raises(LocalProtocolError):
            end.send(Totals(1))
    with pytest.raises(LocalProtocolError):
        pair.initiator.accept(local_of("x"), None)
    with pytest.raises(LocalProtocolError):
        met().responder.answer(Snapshot.seal([]))


# Rekey


@pytest.mark.parametrize("direction", ["->", "<-"])
def test_keys_are_changed_by_the_hour(direction: str) -> None:
    pair = met()
    end = pair.initiator if direction == "->" else pair.responder
    for hour in (0.5, 1.0, 1.5, 2.5):
        pair.now = hour * 3600
        end.send(Totals(1))
        pair.pump()
    total, rekey = f"{direction} TOTALS", f"{direction} REKEY"
    assert pair.transcript == [total, total, rekey, total, total, rekey]
    other = pair.responder if direction == "->" else pair.initiator
    assert pair.heard(other) == [Totals(1)] * 4


def test_keys_are_changed_by_the_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REKEY_RECORDS", 3)
    pair = met(piece=1)
    for number in range(10):
        pair.initiator.send(Totals(number))
        pair.pump()
    assert pair.heard(pair.responder) == [Totals(number) for number in range(10)]
    assert pair.transcript.count("-> REKEY") == 2
    assert pair.transcript.index("-> REKEY") == 4  # behind the fourth message, in its record


def test_a_rekey_of_a_peer_at_any_time_is_followed() -> None:
    pair = met()
    rekey, totals = messages.encode(Rekey())[0], messages.encode(Totals(1))[0]
    for _ in range(3):
        assert receive(pair, "initiator", totals + rekey) == [Totals(1)]
        assert pair.initiator._channel is not None
        pair.initiator._channel._writer.rekey(0.0)
    assert receive(pair, "initiator", totals) == [Totals(1)]


# Sizes and appearance


def test_a_run_bigger_than_any_run_may_be_is_refused_before_it_is_whole() -> None:
    pair = met()
    header = messages.encode(RunMessage(written([b""] * 100)))[0]
    assert receive(pair, "initiator", header) == []
    part = b"\x81" + b"\x59\x40\x00" + bytes(16_384)
    frame = b"\x0a" + len(part).to_bytes(3, "big") + part
    for _ in range(64):
        assert receive(pair, "initiator", frame) == []
    with pytest.raises(RemoteProtocolError):
        receive(pair, "initiator", frame)


def test_every_run_an_author_can_make_fits_its_frames() -> None:
    refs = tuple(bytes([n]) * 32 for n in range(4))
    run = written([b"x" * 20] * RUN_ENTRIES_MAX, refs=dict.fromkeys(range(RUN_ENTRIES_MAX), refs))
    pair = met()
    pair.initiator.send(RunMessage(run))
    pair.pump()
    parts = [event.unproven for event in pair.heard(pair.responder) if isinstance(event, RunMessage)]
    assert len(parts) > 1
    assert [id for part in parts for id in part.ids] == run.ids
    assert all(len(part) - 1 in part.signatures for part in parts)
    assert [part.first_seq + len(part) for part in parts[:-1]] == [part.first_seq for part in parts[1:]]


def test_no_bit_of_the_first_512_bytes_is_the_same_in_64_sessions() -> None:
    streams: dict[str, list[bytes]] = {"->": [], "<-": []}
    for number in range(64):
        pair = met(digests=(DIGEST, OTHER_DIGEST), seed=f"session {number}")
        for end in (pair.initiator, pair.responder):
            end.send(Digest(DIGEST, question=True))
            end.send(Same((KEY,) * 20))
        pair.pump()
        for arrow, data in pair.streams.items():
            streams[arrow].append(data[:512])
    for seen in streams.values():
        assert all(len(data) == 512 for data in seen)
        ones, zeros = b"\xff" * 512, bytes(512)
        for data in seen:
            ones, zeros = bytes(map(and_, ones, data)), bytes(map(or_, zeros, data))
        assert (ones, zeros) == (bytes(512), b"\xff" * 512)


def test_a_session_says_nothing_to_another_session_of_the_same_ends() -> None:
    one, two = met(seed="one"), met(seed="two")
    with pytest.raises(RemoteProtocolError):
        two.responder.receive(say(one.initiator, messages.encode(Totals(1))[0]), 0.0)
