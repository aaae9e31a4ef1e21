"""Vectors: the code against files made by another implementation, and the specification's numbers against the code."""

import ast
import dataclasses
import importlib
import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from hashlib import shake_256
from pathlib import Path
from typing import Any

import pytest

from protocol import (
    beacon,
    bundle,
    entry,
    frames,
    frontier,
    invite,
    keys,
    limits,
    mailbox,
    messages,
    padding,
    records,
    relay_handshake,
    relay_messages,
    relaying,
    report,
    statement,
)
from protocol.bundle import Malformed, Opener, Sealer, Unsealer
from protocol.entry import Header, LogClass, LogIdentity
from protocol.errors import InputRefused, RemoteProtocolError
from protocol.frames import Type
from protocol.frontier import LogState, State
from protocol.handshake import Finished, Initiator, LocalEnd, Opened, Responder
from protocol.log import Run, prove_untrusted, rebuild
from protocol.mailbox import BEGINNING, Cursor
from protocol.mask import Mode, SessionSecret
from protocol.messages import RunMessage
from protocol.noise import CipherState, KeyPair
from protocol.records import RecordReader, RecordWriter
from protocol.relay_handshake import Answered, Answerer, Called, Caller, Terms
from protocol.run_frames import RunReader

VECTORS = Path(__file__).parents[1] / "vectors"
PROTOCOL = Path(__file__).parents[2] / "protocol"
SPECIFICATION = (PROTOCOL / "README.md").read_text(encoding="utf-8")
FILES = (
    *("entry", "run", "handshake", "record", "digest", "message", "payload", "invitation", "beacon"),
    *("bundle", "mailbox", "relay"),
)


def load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def unhex(value: str | None) -> bytes | None:
    return None if value is None else bytes.fromhex(value)


def named(cases: list[dict[str, Any]]) -> Any:
    """Cases with their name or reason as the id of the test."""
    return pytest.mark.parametrize("case", cases, ids=[case.get("name") or case.get("reason") for case in cases])


ENTRY, RUN, HANDSHAKE, RECORD, DIGEST, MESSAGE, PAYLOAD, INVITATION, BEACON, BUNDLE, MAILBOX, RELAY = map(load, FILES)


# Where they come from


def test_the_files_are_what_the_naive_implementation_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(VECTORS / "make.py"), str(tmp_path)], check=True)
    assert {f"{name}.json" for name in FILES} == {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.iterdir():
        assert (VECTORS / path.name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), path.name


def test_the_naive_implementation_stands_on_its_own() -> None:
    local = {path.stem for path in VECTORS.glob("*.py")}
    imported = set()
    for path in VECTORS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported - local == {"base64", "hashlib", "hmac", "json", "nacl", "pathlib", "sys"}


# Entries


def header_of(case: dict[str, Any]) -> Header:
    log = LogIdentity(unhex(case["space"]), bytes.fromhex(case["author"]), bytes.fromhex(case["log_id"]), case["class"])
    return Header(
        log,
        case["seq"],
        unhex(case["prev"]),
        case["lamport"],
        case["time"],
        case["kind"],
        len(case["payload"]) // 2,
        bytes.fromhex(case["payload_hash"]),
        tuple(map(bytes.fromhex, case["refs"])),
    )


@named(ENTRY["valid"])
def test_an_entry_has_the_bytes_that_the_specification_gives_it(case: dict[str, Any]) -> None:
    raw, header, secret = bytes.fromhex(case["header"]), header_of(case), keys.signer_secret(unhex(case["author_seed"]))
    assert raw == header.encode()
    assert header == entry.decode_header_untrusted(raw)
    assert case["payload_hash"] == entry.payload_hash(bytes.fromhex(case["payload"])).hex()
    id = entry.entry_id(raw)
    assert case["id"] == id.hex()
    assert case["log_key"] == entry.log_key(header.log.space or id, header.log).hex()
    assert case["signature"] == keys.sign(secret, keys.SIGN_ENTRY, id).hex()
    assert keys.verified(header.log.author, keys.SIGN_ENTRY, id, bytes.fromhex(case["signature"]))


@named(ENTRY["invalid"])
def test_a_header_that_breaks_a_rule_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        entry.decode_header_untrusted(bytes.fromhex(case["header"]))


@named(ENTRY["invalid_signatures"])
def test_a_signature_that_breaks_a_rule_does_not_hold(case: dict[str, Any]) -> None:
    author, id, signature = (bytes.fromhex(case[name]) for name in ("author", "id", "signature"))
    assert not keys.verified(author, keys.SIGN_ENTRY, id, signature)


# Runs


def read_run(case: dict[str, Any]) -> Run:
    reader = None
    for content in case["frames"]:
        for kind, body in frames.split_untrusted(bytes.fromhex(content), Type):
            if reader is None:
                assert kind is Type.RUN
                reader = RunReader(bytes.fromhex(case["space"]), body)
            else:
                assert kind is Type.PAYLOADS
                reader.receive_untrusted(body)
    assert reader is not None
    assert reader.run is not None
    return reader.run


@named(RUN["valid"])
def test_a_run_is_read_as_the_specification_says(case: dict[str, Any]) -> None:
    run = prove_untrusted(read_run(case))
    assert case["ids"] == [id.hex() for id in run.ids]
    assert case["ids"] == [entry.entry_id(bytes.fromhex(header)).hex() for header in case["headers"]]
    assert case["payloads"] == [payload if payload is None else payload.hex() for payload in run.payloads]
    assert (case["log_key"], case["first_seq"]) == (run.key.hex(), run.first_seq)
    assert (case["author"], case["log_id"], case["class"]) == (
        run.log.author.hex(),
        run.log.log_id.hex(),
        run.log.log_class,
    )
    for index, header in enumerate(case["headers"]):
        decoded = entry.decode_header_untrusted(bytes.fromhex(header))
        assert (decoded.prev, decoded.refs) == (run.prev_of(index), run.refs.get(index, ()))


@named([case for case in RUN["valid"] if case["our_frames"]])
def test_a_run_is_written_as_the_specification_says(case: dict[str, Any]) -> None:
    assert case["frames"] == [frame.hex() for frame in messages.encode(RunMessage(read_run(case)))]


@named([case for case in RUN["invalid"] if case["at"] == "columns"])
def test_a_run_whose_columns_break_a_rule_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        read_run(case)


@named([case for case in RUN["invalid"] if case["at"] == "signature"])
def test_a_run_whose_signatures_do_not_hold_is_refused(case: dict[str, Any]) -> None:
    run = read_run(case)
    with pytest.raises(RemoteProtocolError):
        prove_untrusted(run)


# Handshakes


def drawing(*draws: bytes) -> Any:
    """The bytes of the vector, in the order in which the code asks for them; it must not ask for others."""
    waiting = deque(draws)

    def entropy(size: int) -> bytes:
        drawn = waiting.popleft()
        assert size == len(drawn)
        return drawn

    return entropy


def fill_of(case: dict[str, Any], number: int) -> tuple[bytes, bytes]:
    """What is drawn for a message: the size of its fill beyond the body's, then the fill."""
    fill = bytes.fromhex(case["fills"][number])
    body_size = len(case["payloads"][number]) // 2 - 2 - len(fill)
    least = 52 - body_size if number else 0
    return (len(fill) - least).to_bytes(2, "big"), fill


def secret_of(case: dict[str, Any]) -> SessionSecret:
    return SessionSecret(bytes.fromhex(case["space"]), Mode(case["mode"]), bytes.fromhex(case["secret"]))


def local_of(case: dict[str, Any], end: str) -> tuple[LocalEnd, KeyPair, bytes | None]:
    held = case[end]
    local = LocalEnd(KeyPair.from_secret(bytes.fromhex(held["static_secret"])), bytes.fromhex(held["start_nonce"]))
    return local, KeyPair.from_secret(bytes.fromhex(held["ephemeral_secret"])), unhex(held["digest"])


def initiator_of(case: dict[str, Any]) -> Initiator:
    local, ephemeral, digest = local_of(case, "initiator")
    draws = drawing(bytes.fromhex(case["salt"]), *fill_of(case, 0), *fill_of(case, 2))
    return Initiator(secret_of(case), local, ephemeral, digest, draws, case["time_s"])


def responder_of(case: dict[str, Any]) -> Responder:
    return Responder([secret_of(case)], drawing(*fill_of(case, 1)), case["time_s"])


@named(HANDSHAKE["valid"])
def test_both_ends_of_a_handshake_write_what_the_specification_says(case: dict[str, Any]) -> None:
    first, second, third = map(bytes.fromhex, case["messages"])
    initiator, responder = initiator_of(case), responder_of(case)
    assert first == initiator.start()
    opened = responder.receive(first)
    assert opened == Opened(secret_of(case), bytes.fromhex(case["replay_tag"]), case["week"])
    assert second == responder.accept(*local_of(case, "responder"))
    ours = initiator.receive(second)
    assert isinstance(ours, Finished)
    assert third == ours.outgoing
    theirs = responder.receive(third)
    assert isinstance(theirs, Finished)
    for finished, met in ((ours, "responder"), (theirs, "initiator")):
        remote, expected = finished.remote, case[met]
        assert expected["static_public"] == remote.static.hex()
        assert (expected["start_nonce"], unhex(expected["digest"])) == (remote.start_nonce.hex(), remote.digest)
        assert case["handshake_hash"] == finished.transport.handshake_hash.hex()
    record = RecordWriter(ours.transport.send, 0.0).write(b"hello")
    assert case["first_records"] == [record.hex(), RecordWriter(theirs.transport.send, 0.0).write(b"hello").hex()]
    assert list(RecordReader(theirs.transport.receive).receive(record)) == [b"hello"]


@named(HANDSHAKE["valid"])
def test_the_derived_keys_of_a_handshake_are_the_specifications(case: dict[str, Any]) -> None:
    secret = secret_of(case)
    assert case["prologue"] == secret.prologue.hex()
    assert case["psk"] == keys.derive(secret.secret, b"p2pnode psk 1").hex()
    for direction, record in zip(("initiator", "responder"), case["first_records"], strict=True):
        cipher = CipherState(bytes.fromhex(case[f"{direction}_sends_key"]))
        assert RecordWriter(cipher, 0.0).write(b"hello").hex() == record


def answer_to(first: bytes) -> bytes | None:
    """What the responder says to a first message, and to more bytes where it waits for them."""
    responder = responder_of(HANDSHAKE["valid"][0])
    for data in (first, bytes(limits.HANDSHAKE_MESSAGE_MAX)):
        if isinstance(responder.receive(data), Opened):
            return responder.accept(*local_of(HANDSHAKE["valid"][0], "responder"))
    return None


@named([case for case in HANDSHAKE["invalid"] if case["message"] == 1])
def test_a_first_message_that_breaks_a_rule_draws_no_byte(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        answer_to(bytes.fromhex(case["bytes"]))


@named([case for case in HANDSHAKE["invalid"] if case["message"] == 2])
def test_a_second_message_that_breaks_a_rule_draws_no_third(case: dict[str, Any]) -> None:
    initiator = initiator_of(HANDSHAKE["valid"][0])
    initiator.start()
    with pytest.raises(RemoteProtocolError):
        [initiator.receive(data) for data in (bytes.fromhex(case["bytes"]), bytes(limits.HANDSHAKE_MESSAGE_MAX))]


@named([case for case in HANDSHAKE["invalid"] if case["message"] == 3])
def test_a_third_message_that_breaks_a_rule_gives_no_session(case: dict[str, Any]) -> None:
    valid = HANDSHAKE["valid"][0]
    responder = responder_of(valid)
    responder.receive(bytes.fromhex(valid["messages"][0]))
    responder.accept(*local_of(valid, "responder"))
    with pytest.raises(RemoteProtocolError):
        responder.receive(bytes.fromhex(case["bytes"]))


# Records


def test_records_have_the_bytes_that_the_specification_gives_them() -> None:
    key = bytes.fromhex(RECORD["key"])
    writer, reader = RecordWriter(CipherState(key), 0.0), RecordReader(CipherState(key))
    for case in RECORD["valid"]:
        content, record = bytes.fromhex(case["content"]), bytes.fromhex(case["record"])
        assert record == writer.write(content)
        assert [content] == list(reader.receive(record))
    writer.rekey(0.0)
    reader.rekey()
    after = RECORD["after_rekey"]
    assert after["record"] == writer.write(bytes.fromhex(after["content"])).hex()
    assert [bytes.fromhex(after["content"])] == list(reader.receive(bytes.fromhex(after["record"])))


def test_bodies_have_the_sizes_that_the_specification_gives_them() -> None:
    assert RECORD["sizes"] == [[size, records.body_size(size)] for size, _ in RECORD["sizes"]]


@named(RECORD["invalid"])
def test_a_stream_that_breaks_a_rule_of_records_is_refused(case: dict[str, Any]) -> None:
    reader = RecordReader(CipherState(bytes.fromhex(RECORD["key"])))
    with pytest.raises(RemoteProtocolError):
        list(reader.receive(bytes.fromhex(case["stream"])))


# Frontiers


def state_of(fields: list[Any]) -> LogState:
    key, high, newest, state = fields
    return LogState(bytes.fromhex(key), high, unhex(newest), State(state))


def buckets_of(states: list[LogState]) -> Iterator[bytes]:
    for number in range(frontier.BUCKETS):
        yield frontier.bucket_digest(state for state in states if frontier.bucket_of(state.key) == number)


def test_log_keys_are_the_specifications() -> None:
    space = bytes.fromhex(DIGEST["space"])
    for case in DIGEST["logs"]:
        author, log_id = bytes.fromhex(case["author"]), bytes.fromhex(case["log_id"])
        log = LogIdentity(None if case["founding"] else space, author, log_id, LogClass(case["class"]))
        assert case["key"] == entry.log_key(space, log).hex()


@named(DIGEST["valid"])
def test_the_digest_of_a_frontier_is_the_specifications(case: dict[str, Any]) -> None:
    states = [state_of(fields) for fields in case["states"]]
    buckets = list(buckets_of(states))
    assert case["buckets"] == {n: buckets[int(n)].hex() for n in case["buckets"]}
    empty = {digest.hex() for n, digest in enumerate(buckets) if str(n) not in case["buckets"]}
    assert {DIGEST["empty_bucket"]} == empty
    assert case["digest"] == frontier.digest(bytes.fromhex(DIGEST["space"]), buckets).hex()


def test_frontiers_that_differ_have_digests_that_differ() -> None:
    assert len(DIGEST["valid"]) == len({case["digest"] for case in DIGEST["valid"]})


def test_items_are_the_specifications() -> None:
    session = bytes.fromhex(DIGEST["session_key"])
    for case in DIGEST["items"]:
        assert case["item"] == frontier.item(session, state_of(case["state"])).hex()


@named(DIGEST["invalid"])
def test_a_position_that_no_log_can_have_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        messages.decode_untrusted(Type.POSITION, bytes.fromhex(case["position"]))


# Messages, payloads, invitations, beacons


@named(MESSAGE["valid"])
def test_a_message_has_the_frame_that_the_specification_gives_it(case: dict[str, Any]) -> None:
    frame = bytes.fromhex(case["frame"])
    ((kind, body),) = frames.split_untrusted(frame, Type)
    assert case["name"].partition(",")[0] == kind.name
    assert [frame] == messages.encode(messages.decode_untrusted(kind, body))


@named(MESSAGE["invalid"])
def test_a_frame_that_breaks_a_rule_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        [messages.decode_untrusted(*frame) for frame in frames.split_untrusted(bytes.fromhex(case["content"]), Type)]


def decode_payload(case: dict[str, Any]) -> Any:
    payload = bytes.fromhex(case["payload"])
    if case["kind"] == entry.Kind.REPORT:
        return report.decode_untrusted(payload)
    return statement.decode_untrusted(case["kind"], payload)


@named(PAYLOAD["valid"])
def test_a_payload_is_read_and_written_as_the_specification_says(case: dict[str, Any]) -> None:
    space, author, payload = (bytes.fromhex(value) for value in (PAYLOAD["space"], PAYLOAD["author"], case["payload"]))
    body = decode_payload(case)
    match body:
        case statement.Invite():
            assert statement.check_invite(space, author, body)
        case statement.Claim():
            assert statement.check_claim(space, author, body)
        case _:
            pass
    if "later version" not in case["name"]:
        encode = report.encode if case["kind"] == entry.Kind.REPORT else statement.encode
        assert case["payload"] == encode(body, payload[: limits.PAYLOAD_SALT_SIZE]).hex()


def test_proofs_of_invites_and_claims_are_the_specifications() -> None:
    space, author, seed = (bytes.fromhex(PAYLOAD[name]) for name in ("space", "author", "admission_seed"))
    found = {case["name"]: decode_payload(case) for case in PAYLOAD["valid"]}
    made = statement.claim(space, author, seed, "Ñandú")
    assert made == found["claim"]
    shown = found["invite"]
    assert shown == statement.invite(space, author, seed, shown.role, shown.expires_s, shown.join_secret)


@named(PAYLOAD["invalid"])
def test_a_payload_that_breaks_its_schema_is_void(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_payload(case)


@pytest.mark.parametrize("case", INVITATION["valid"], ids=["shortest", "with addresses"])
def test_an_invitation_is_read_and_written_as_the_specification_says(case: dict[str, Any]) -> None:
    invitation = invite.Invitation(
        bytes.fromhex(INVITATION["space"]),
        bytes.fromhex(INVITATION["join_secret"]),
        bytes.fromhex(INVITATION["admission_seed"]),
        INVITATION["expires_s"],
        tuple(map(invite.parse_address, case["addresses"])),
        tuple(invite.Relay(invite.parse_address(address), bytes.fromhex(key)) for address, key in case["relays"]),
    )
    assert invitation == invite.decode(case["text"])
    assert case["text"] == invite.encode(invitation)


@named(INVITATION["invalid"])
def test_an_invitation_that_breaks_a_rule_is_refused_with_its_reason(case: dict[str, Any]) -> None:
    with pytest.raises(InputRefused) as refused:
        invite.decode(case["text"])
    assert (refused.value.field, refused.value.reason) == ("invite", case["slug"])


def test_a_beacon_is_made_and_recognised_as_the_specification_says() -> None:
    record, lan_keys = bytes.fromhex(BEACON["record"]), list(map(bytes.fromhex, BEACON["keys"]))
    instance, port, hour = BEACON["instance"], BEACON["port"], BEACON["hour"]
    draws = drawing(*map(bytes.fromhex, BEACON["random"]))
    assert record == beacon.make(lan_keys, instance, port, hour, draws)
    spaces = [(bytes([n]) * 32, key) for n, key in enumerate(lan_keys)]
    expected = {(space, bytes.fromhex(tag)) for (space, _), tag in zip(spaces, BEACON["slots"], strict=True)}
    for near in (hour - 1, hour, hour + 1):
        found = beacon.recognise(record, instance, port, near, spaces)
        assert expected == {(one.space, one.tag) for one in found}
    for other in ((instance, port, hour + 2), (instance, port + 1, hour), (instance + "x", port, hour)):
        assert not beacon.recognise(record, *other, spaces)
    for case in BEACON["key_of_epoch"]:
        assert case["key"] == keys.derive(bytes.fromhex(case["epoch_secret"]), b"p2pnode lan 1").hex()


# Bundles


def opener_of(case: dict[str, Any]) -> Opener:
    return Opener(bytes.fromhex(BUNDLE["space"]), bytes.fromhex(case["secret"]))


def unsealed(sealed: bytes, opener: Opener) -> tuple[list[bundle.Found], Unsealer]:
    """What is found in a bundle, and the reader that found it."""
    start = bundle.SALT_SIZE
    unsealer = Unsealer(sealed[:start], [opener])
    chunks = [sealed[at : at + limits.BUNDLE_CHUNK_SIZE] for at in range(start, len(sealed), limits.BUNDLE_CHUNK_SIZE)]
    return [found for chunk in chunks for found in unsealer.read_untrusted(chunk)], unsealer


@named(BUNDLE["valid"])
def test_a_bundle_is_read_as_the_specification_says(case: dict[str, Any]) -> None:
    found, unsealer = unsealed(bytes.fromhex(case["bundle"]), opener_of(case))
    assert unsealer.whole
    assert unsealer.opener == opener_of(case)
    known = {int(kind) for kind in bundle.Type} - {bundle.Type.PAYLOADS}
    expected = [kind for kind in (bytes.fromhex(frame)[0] for frame in case["frames"]) if kind in known]
    kinds = {
        bundle.Head: bundle.Type.HEAD,
        bundle.Seen: bundle.Type.SEEN,
        messages.Positions: bundle.Type.POSITION,
        messages.Welcome: bundle.Type.WELCOME,
        RunMessage: bundle.Type.RUN,
    }
    assert expected == [kinds[type(part)] for part in found]
    for part in found:
        if isinstance(part, RunMessage):
            assert len(prove_untrusted(part.unproven)) == 3


@named([case for case in BUNDLE["valid"] if "later" not in case["name"] and "byte" not in case["name"]])
def test_a_bundle_is_written_as_the_specification_says(case: dict[str, Any]) -> None:
    sealer = Sealer(bytes.fromhex(case["secret"]), bytes.fromhex(case["salt"]))
    parts, _ = unsealed(bytes.fromhex(case["bundle"]), opener_of(case))
    assert case["bundle"] == (b"".join(map(sealer.put, parts)) + sealer.finish()).hex()


@named(BUNDLE["valid"])
def test_the_keys_of_a_bundle_are_the_specifications(case: dict[str, Any]) -> None:
    key, header = bytes.fromhex(case["key"]), bytes.fromhex(case["header"])
    assert key == keys.derive(bytes.fromhex(case["secret"]), b"p2pnode bundle 1")
    content, _ = keys.Stream(key, header).unseal(bytes.fromhex(case["bundle"])[bundle.SALT_SIZE :])
    assert content.rstrip(b"\0") == b"".join(map(bytes.fromhex, case["frames"])).rstrip(b"\0")


def test_every_segment_has_the_header_that_the_specification_gives_it() -> None:
    for case in BUNDLE["headers"]:
        about = bytes.fromhex(case["salt"]) + case["number"].to_bytes(4, "big")
        assert case["header"] == keys.keyed_hash(bytes.fromhex(case["key"]), b"p2pnode segm 1", about, 24).hex()
    assert len({case["header"] for case in BUNDLE["headers"]}) == len(BUNDLE["headers"])


def test_bundles_have_the_sizes_that_the_specification_gives_them() -> None:
    for full, last, size in BUNDLE["sizes"]:
        sealer = Sealer(bytes(32), bytes(bundle.SALT_SIZE))
        sealed = 0
        for content in [bytes(bundle.CONTENT_SIZE)] * full:
            sealer._content = [content]
            sealed += len(sealer._seal(len(content)))
        sealer._content, sealer._size = [bytes(last)], last
        assert size == sealed + len(sealer.finish()) == padding.padme(size)


def test_a_bundle_of_two_segments_is_the_specifications() -> None:
    case = BUNDLE["long"]
    salt, space = bytes.fromhex(case["salt"]), bytes.fromhex(BUNDLE["space"])
    runs = [long_run(space, number) for number in range(3)]
    assert case["runs"] == [keys.hash_of(b"", b"".join(messages.encode(RunMessage(run)))).hex() for run in runs]
    sealer = Sealer(bytes.fromhex(case["secret"]), salt)
    sealed = b"".join(sealer.put(RunMessage(run)) for run in runs) + sealer.finish()
    second = len(salt) + limits.BUNDLE_SEGMENT_CHUNKS * limits.BUNDLE_CHUNK_SIZE
    assert case["size"] == len(sealed) > second
    assert case["segments"] == [keys.hash_of(b"", part).hex() for part in (sealed[len(salt) : second], sealed[second:])]
    found, unsealer = unsealed(sealed, opener_of(case))
    assert ([RunMessage(run) for run in runs], True) == (found, unsealer.whole)


def long_run(space: bytes, number: int) -> Run:
    """One of the runs of that bundle, from the names of its parts."""

    def fixed(name: str, size: int) -> bytes:
        return shake_256(name.encode()).digest(size)

    secret, log_id = keys.signer_secret(fixed("author", 32)), fixed(f"log {number}", 8)
    log = LogIdentity(space, keys.signer_public(fixed("author", 32)), log_id, LogClass.REPORT)
    payloads = [fixed(f"payload {log_id.hex()} {n}", 16_384) for n in range(64)]
    columns = (1, None, list(range(1, 65)), [1_990_000] * 64, [64] * 64, payloads)
    ids = rebuild(space, log, *columns, {}, {}, {}).ids
    signatures = {n: keys.sign(secret, keys.SIGN_ENTRY, id) for n, id in enumerate(ids)}
    return rebuild(space, log, *columns, signatures, {}, {})


@named(BUNDLE["invalid"])
def test_a_frame_of_a_bundle_that_breaks_a_rule_is_told_apart(case: dict[str, Any]) -> None:
    sealer = Sealer(bytes(32), bytes(bundle.SALT_SIZE))
    sealer._content = [bytes.fromhex(case["content"])]
    assert [Malformed()] == unsealed(sealer.finish(), Opener(bytes(32), bytes(32)))[0]


# Mailboxes


@named(MAILBOX["valid"])
def test_a_topic_is_the_specifications(case: dict[str, Any]) -> None:
    topic = mailbox.topic_of(bytes.fromhex(MAILBOX["secret"]), bytes.fromhex(case["relay"]), case["week"])
    seed = bytes.fromhex(case["seed"])
    assert (case["topic"], keys.signer_secret(seed)) == (topic.key.hex(), topic.secret)


def test_topics_of_other_relays_weeks_and_secrets_have_nothing_in_common() -> None:
    topics = [case["topic"] for case in (*MAILBOX["valid"], *MAILBOX["welcomes"])]
    tokens = [case["token"] for case in MAILBOX["tokens"]]
    assert len({*topics, *tokens}) == len(topics) + len(tokens)


def test_topics_of_welcomes_and_tokens_of_meetings_are_the_specifications() -> None:
    secret, join_secret = (bytes.fromhex(MAILBOX[name]) for name in ("secret", "join_secret"))
    for case in MAILBOX["welcomes"]:
        topic = mailbox.welcome_topic(join_secret, bytes.fromhex(case["relay"]))
        assert (case["topic"], keys.signer_secret(bytes.fromhex(case["seed"]))) == (topic.key.hex(), topic.secret)
    for case in MAILBOX["tokens"]:
        token = mailbox.token(secret, bytes.fromhex(case["relay"]), case["hour"], case["lane"])
        assert case["token"] == token.hex()
    for case in MAILBOX["times"]:
        assert (case["week"], case["hour"]) == (mailbox.week_of(case["time_s"]), mailbox.hour_of(case["time_s"]))


def test_running_hashes_are_the_specifications() -> None:
    cursor = BEGINNING
    for case in MAILBOX["cursors"]:
        assert case["hash"] == mailbox.message_hash(bytes.fromhex(case["message"])).hex()
        cursor = cursor.behind(bytes.fromhex(case["message"]))
        assert cursor == Cursor(case["number"], bytes.fromhex(case["running"]))


def test_an_append_is_signed_as_the_specification_says() -> None:
    case = MAILBOX["append"]
    topic, message, signature = (bytes.fromhex(case[name]) for name in ("topic", "message", "signature"))
    first = MAILBOX["valid"][0]
    held = mailbox.topic_of(bytes.fromhex(MAILBOX["secret"]), bytes.fromhex(first["relay"]), first["week"])
    assert (held.key, held.sign(message)) == (topic, signature)
    assert mailbox.may_append(topic, mailbox.message_hash(message), signature)


@named(MAILBOX["invalid"])
def test_a_signature_that_is_not_the_topics_lets_nothing_in(case: dict[str, Any]) -> None:
    assert not mailbox.may_append(*(bytes.fromhex(case[name]) for name in ("topic", "hash", "signature")))


# Relays


def relay_draws(case: dict[str, Any], number: int) -> tuple[bytes, bytes]:
    """What is drawn for a message, as in `fill_of`."""
    fill, payload = (bytes.fromhex(case[name][number]) for name in ("fills", "payloads"))
    body_size = len(payload) - 2 - len(fill)
    return (len(fill) - (52 - body_size if number else 0)).to_bytes(2, "big"), fill


def caller_of(case: dict[str, Any]) -> Caller:
    key, ephemeral = bytes.fromhex(case["relay_public"]), KeyPair.from_secret(bytes.fromhex(case["caller_ephemeral"]))
    return Caller(key, ephemeral, drawing(bytes.fromhex(case["salt"])), case["time_s"])


def answerer_of(case: dict[str, Any]) -> Answerer:
    return Answerer(KeyPair.from_secret(bytes.fromhex(case["relay_secret"])), case["time_s"])


@named(RELAY["valid"])
def test_a_relay_and_its_caller_write_what_the_specification_says(case: dict[str, Any]) -> None:
    first, answer = map(bytes.fromhex, case["messages"])
    caller, answerer = caller_of(case), answerer_of(case)
    assert first == caller.start(drawing(*relay_draws(case, 0)))
    assert answerer.receive(first) == Called(bytes.fromhex(case["replay_tag"]), case["week"])
    ephemeral, terms = KeyPair.from_secret(bytes.fromhex(case["relay_ephemeral"])), Terms(*case["terms"])
    sent, theirs = answerer.answer(ephemeral, terms, drawing(*relay_draws(case, 1)))
    assert answer == sent
    answered = caller.receive(answer + b"leftover")
    assert isinstance(answered, Answered)
    assert (answered.terms, answered.leftover) == (terms, b"leftover")
    assert case["handshake_hash"] == answered.transport.handshake_hash.hex() == theirs.handshake_hash.hex()
    records = [RecordWriter(end.send, 0.0).write(b"hello") for end in (answered.transport, theirs)]
    assert case["first_records"] == [record.hex() for record in records]
    assert list(RecordReader(theirs.receive).receive(records[0])) == [b"hello"]
    key = bytes.fromhex(case["relay_public"])
    assert case["prologue"] == SessionSecret(key, Mode.RELAY, key).prologue.hex()


@named([case for case in RELAY["invalid"] if case["message"] == 1])
def test_a_call_that_breaks_a_rule_draws_no_byte(case: dict[str, Any]) -> None:
    answerer = answerer_of(RELAY["valid"][0])
    with pytest.raises(RemoteProtocolError):
        [answerer.receive(data) for data in (bytes.fromhex(case["bytes"]), bytes(limits.HANDSHAKE_MESSAGE_MAX))]


@named([case for case in RELAY["invalid"] if case["message"] == 4])
def test_a_relays_answer_that_breaks_a_rule_is_refused(case: dict[str, Any]) -> None:
    caller = caller_of(RELAY["valid"][0])
    caller.start(drawing(bytes(2), b""))
    with pytest.raises(RemoteProtocolError):
        [caller.receive(data) for data in (bytes.fromhex(case["bytes"]), bytes(limits.HANDSHAKE_MESSAGE_MAX))]


HAS_NO_GRAMMAR = (relay_messages.Type.PART, relay_messages.Type.REKEY, relay_messages.Type.CLOSE)


def decode_relay_frame(content: bytes) -> Any:
    ((kind, body),) = frames.split_untrusted(content, relay_messages.Type)
    if kind not in HAS_NO_GRAMMAR:
        return kind, relay_messages.decode_untrusted(kind, body)
    if body and kind is not relay_messages.Type.PART:
        raise RemoteProtocolError("a bare message with a body")  # RelayConnection's to refuse, see test_relaying
    return kind, body


@named(RELAY["frames"])
def test_a_message_of_a_relay_has_the_frame_that_the_specification_gives_it(case: dict[str, Any]) -> None:
    content = bytes.fromhex(case["frame"])
    kind, message = decode_relay_frame(content)
    assert case["name"].partition(",")[0] == kind.name
    match message:
        case relay_messages.Refused() if "later" in case["name"]:
            assert message.reason is relay_messages.Reason.FAILED
        case relay_messages.Read() | relay_messages.Appended() | relay_messages.Refused():
            assert [content] == list(relay_messages.encode(message))
        case relay_messages.Meet() | relay_messages.Met():
            assert [content] == list(relay_messages.encode(message))
        case relay_messages.PageHead(base, hash, first, newest, count):
            page = relay_messages.Page(base, hash, first, newest, (b"x",) * count)
            assert content == next(relay_messages.encode(page))
        case relay_messages.AppendHead(topic, signature, size, days):
            assert content == next(relay_messages.encode(relay_messages.Append(topic, signature, days, bytes(size))))
        case int():
            page = relay_messages.Page(0, bytes(32), 1, 1, (bytes(message),))
            assert content == list(relay_messages.encode(page))[1]
        case _:
            assert kind in HAS_NO_GRAMMAR


def test_there_is_a_vector_for_every_type_of_a_relays_frames() -> None:
    assert {bytes.fromhex(case["frame"])[0] for case in RELAY["frames"]} == {int(kind) for kind in relay_messages.Type}


@named(RELAY["invalid_frames"])
def test_a_frame_of_a_relay_that_breaks_a_rule_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_relay_frame(bytes.fromhex(case["content"]))


# The specification's words and numbers against the code


def table(section: str) -> list[list[str]]:
    """The cells of all tables in a section of the specification."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", SPECIFICATION, re.MULTILINE | re.DOTALL)
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


def numbers(section: str, column: int = 1) -> dict[str, int]:
    """The rows of a section whose cell in this column is a number, by their first cell."""
    found = [(row[0], row[column].replace(",", "")) for row in table(section) if len(row) > column]
    return {name: int(number) for name, number in found if re.fullmatch("[0-9]+", number)}


def constants_of(module: Any) -> dict[str, int]:
    return {name: value for name, value in vars(module).items() if name.isupper() and type(value) is int}


def test_every_number_in_the_specification_is_the_codes() -> None:
    said = numbers("Constants")
    qualified = {name: value for name, value in said.items() if "." in name}
    assert qualified == {
        name: getattr(importlib.import_module(f"protocol.{name.partition('.')[0]}"), name.partition(".")[2])
        for name in qualified
    }
    assert {name: value for name, value in said.items() if name.isupper()} == constants_of(limits)
    own = {field.name: getattr(limits.Limits(), field.name) for field in dataclasses.fields(limits.Limits)}
    assert {name: value for name, value in said.items() if name.islower() and name not in qualified} == own


def test_every_limit_of_a_report_is_in_the_specification() -> None:
    named_there = {name.partition(".")[2] for name in numbers("Constants") if name.startswith("report.")}
    own = set(constants_of(report)) - set(constants_of(limits))
    assert {name for name in own if name.endswith("_MAX")} == named_there


def lower(enum: type[IntEnum]) -> dict[str, int]:
    return {member.name.lower(): int(member) for member in enum}


def test_every_name_with_a_number_is_the_codes() -> None:
    assert numbers("Logs") == lower(LogClass)
    assert numbers("Frontier") == lower(State)
    assert numbers("Handshake") == lower(Mode)
    kinds = {row[1]: int(row[0]) for row in table("Entries") if row[0].isdigit()}
    assert kinds == lower(entry.Kind)
    for section, types in (("Messages", Type), ("Bundles", bundle.Type), ("Relays", relay_messages.Type)):
        named_there = {row[1]: int(row[0]) for row in table(section) if row[0].isdigit() and row[1].isupper()}
        assert named_there == {kind.name: int(kind) for kind in types}
    reasons = {row[1]: int(row[0]) for row in table("Relays") if row[0].isdigit() and row[1].islower()}
    assert reasons == lower(relay_messages.Reason)


def test_every_bound_of_bundles_mailboxes_and_relays_is_in_the_specification() -> None:
    named_there, known = numbers("Constants"), constants_of(limits)
    for module in (bundle, mailbox, relay_handshake, relay_messages, relaying):
        own = {name for name in constants_of(module) if name not in known and not name.startswith("_")}
        bounds = {name for name in own if name.endswith(("_MAX", "_SECONDS", "_WEEKS", "_CHUNKS"))}
        assert {f"{module.__name__.partition('.')[2]}.{name}" for name in bounds} <= set(named_there)


def test_what_the_relays_may_say_is_what_the_specification_says() -> None:
    (header,) = (row for row in table("Relays") if row[0] == "said by")
    for side, says in (("caller", relaying._CALLER_SAYS), ("relay", relaying._RELAY_SAYS)):
        (row,) = (row for row in table("Relays") if row[0] == side)
        columns = [names.split(", ") for names, cell in zip(header[1:], row[1:], strict=True) if cell]
        assert {name for names in columns for name in names} == {kind.name for kind in says}


def test_every_word_of_a_report_is_in_the_specification() -> None:
    words = {row[0]: row[1].split(", ") for row in table("Reports") if len(row) == 2}
    assert words["cat"] == list(report.CATEGORIES)
    assert words["basis"] == list(report.BASES)
    assert words["state"] == list(report.STATES)
    assert words["rel"] == list(report.RELATIONS)


def test_every_personalisation_and_purpose_is_in_the_specification_and_no_other() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (*PROTOCOL.glob("*.py"), *VECTORS.glob("*.py"))]
    in_code = {name for source in sources for name in re.findall(r'b"(p2pnode [a-z0-9 ]+)"', source)}
    assert in_code == {row[0] for row in table("Keys") if row[0].startswith("p2pnode")}
    assert all(len(name) <= 16 for name in in_code)


def test_every_section_that_the_code_names_exists() -> None:
    sections = set(re.findall(r"^## (.+)$", SPECIFICATION, re.MULTILINE))
    for path in (*PROTOCOL.glob("*.py"), *(PROTOCOL.parent / "p2pnode").rglob("*.py")):
        for name in re.findall(r'Specification (?:section )?"([^"]+)"', path.read_text(encoding="utf-8")):
            assert name in sections, f"{path.name}: {name}"
    links = set(re.findall(r"\]\(#([a-z]+)\)", SPECIFICATION))
    assert links <= {section.lower() for section in sections}


def test_every_file_of_vectors_is_in_the_specification() -> None:
    assert {f"{name}.json" for name in FILES} == {row[0] for row in table("Vectors") if row[0].endswith(".json")}
