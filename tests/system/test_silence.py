"""Silence: who has no secret of a space learns nothing from a node's port but that something listens there."""

import os
import socket
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from system.daemons import Daemon, gathered, invited, met, people, together, until
from system.relay import Recorded, heard, pair_over_a_relay

from p2pnode import keystore, paths
from p2pnode.store.file import open_reader
from p2pnode.store.spaces import epochs
from protocol import invite
from protocol.connection import Connection
from protocol.handshake import LocalEnd
from protocol.limits import Limits
from protocol.mask import Mode, SessionSecret
from protocol.noise import KeyPair

pytestmark = pytest.mark.system

QUIET_SECONDS = 0.8  # an answer takes milliseconds
SESSIONS = 64
LOOKED_AT = 512  # bytes each way


def first_message(secret: SessionSecret, now_s: float | None = None) -> bytes:
    """What a node that holds this secret says first."""
    local = LocalEnd(KeyPair.generate(os.urandom), os.urandom(16))
    wall = time.time() if now_s is None else now_s
    opened = Connection.initiate(secret, local, None, entropy=os.urandom, now=0.0, wall=wall, limits=Limits())
    return opened.data_to_send(0.0)


def epoch_secret(node: Daemon) -> bytes:
    database = open_reader(node.home / paths.STORE, keystore.open(node.home / paths.KEY, None))
    try:
        return epochs(database, 1)[-1]
    finally:
        database.close()


def join_secret(invitation: str) -> SessionSecret:
    read = invite.decode(invitation)
    return SessionSecret(read.space, Mode.JOIN, read.join_secret)


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="example.org").do_handshake()
    return outgoing.read()


def flipped(message: bytes, bit: int) -> bytes:
    changed = bytearray(message)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def knock(node: Daemon, knocks: Mapping[str, bytes]) -> dict[str, tuple[bytes, bool]]:
    """Says each of these to the node, all at the same time; what each heard, and whether it was hung up on."""
    ask = partial(heard, node.endpoint, seconds=QUIET_SECONDS)
    with ThreadPoolExecutor(len(knocks)) as at_once:
        return dict(zip(knocks, at_once.map(ask, knocks.values()), strict=True))


def assert_silent(node: Daemon, knocks: Mapping[str, bytes]) -> None:
    """To all of them the same: not a byte, and nobody hung up on, which would tell one from the other."""
    assert knock(node, knocks) == dict.fromkeys(knocks, (b"", False))


def test_strangers_of_every_kind_hear_not_a_byte_and_members_are_served_meanwhile(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        space, epoch = bytes.fromhex(ana.space["id"]), epoch_secret(ana)
        member = SessionSecret(space, Mode.MEMBER, epoch)
        open_invitation = join_secret(invited(ana))
        two_weeks = 2 * 7 * 24 * 3600
        assert_silent(
            ana,
            {
                "a scanner that waits": b"",
                "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                "TLS": client_hello(),
                "SSH": b"SSH-2.0-OpenSSH_9.7\r\n",
                "one byte": b"\0",
                "sixteen random bytes": os.urandom(16),
                "random bytes": os.urandom(400),
                "far too many random bytes": os.urandom(100_000),
                "zeros": bytes(4096),
                "a wrong secret": first_message(SessionSecret(space, Mode.MEMBER, os.urandom(32))),
                "a wrong join secret": first_message(SessionSecret(space, Mode.JOIN, os.urandom(32))),
                "the secret of another space": first_message(SessionSecret(os.urandom(32), Mode.MEMBER, epoch)),
                "an epoch secret used to join": first_message(SessionSecret(space, Mode.JOIN, epoch)),
                "a join secret used as a member": first_message(
                    SessionSecret(space, Mode.MEMBER, open_invitation.secret)
                ),
                "a clock that is weeks ahead": first_message(member, time.time() + two_weeks),
                "a clock that is weeks behind": first_message(member, time.time() - two_weeks),
                "a changed salt": flipped(first_message(member), 3),
                "a changed key": flipped(first_message(member), 8 * 20),
                "a changed byte at the end": flipped(first_message(member), -1 + 8 * 60),
            },
        )
        # The same with the right secret draws an answer: the silence above is not deafness.
        answers = knock(ana, {"a member": first_message(member), "a newcomer": first_message(open_invitation)})
        assert all(len(answer) > 100 for answer, _ in answers.values())
        beto.ask("report.new", category="other", title="Meanwhile")
        met(ana, beto)


def test_a_scanner_that_closes_at_once_again_and_again_leaves_nothing_behind(tmp_path: Path) -> None:
    with people(tmp_path, "ana") as (ana,):
        ana.ask("space.create", name="vecinos")
        assert ana.process is not None
        handles = Path(f"/proc/{ana.process.pid}/fd")
        before = len(list(handles.iterdir()))
        for _ in range(150):
            socket.create_connection(ana.endpoint).close()
        until("every connection to be forgotten", lambda: len(list(handles.iterdir())) <= before)
        assert ana.ask("status")["peers"] == 0


def test_an_invitation_that_was_used_or_has_expired_is_met_with_silence(tmp_path: Path) -> None:
    with people(tmp_path, "ana", "beto") as (ana, beto):
        ana.ask("space.create", name="vecinos")
        used, expired = invited(ana), invited(ana, expires="1s")
        beto.ask("join", invite=used)
        met(ana, beto)
        secret = join_secret(used)
        until("the other one to expire", lambda: time.time() > invite.decode(expired).expires_s)
        knocks = {"used": first_message(secret), "expired": first_message(join_secret(expired))}
        together([partial(assert_silent, node, knocks) for node in (ana, beto)])  # beto knows of it from the log
        ana.stop()
        ana.start()
        again = {"used": first_message(secret), "expired": first_message(join_secret(expired))}
        assert_silent(ana, again)
        assert ana.space["members"] == 2


def test_a_replayed_session_hears_not_a_byte_not_even_after_a_restart_or_a_death(tmp_path: Path) -> None:
    with pair_over_a_relay(tmp_path) as (ana, beto, relay):
        joining, meeting = relay.recorded[0], relay.recorded[-1]
        assert joining is not meeting
        knocks = {
            "the join": bytes(joining.said),
            "the session": bytes(meeting.said),
            "its beginning": bytes(meeting.said[:400]),
        }
        assert_silent(ana, knocks)
        for end in (ana.kill, ana.stop):
            end()
            ana.start()
            assert_silent(ana, knocks)
        met(ana, beto)


def test_no_bit_of_the_first_512_bytes_each_way_is_the_same_in_64_sessions(tmp_path: Path) -> None:
    with pair_over_a_relay(tmp_path) as (_, beto, relay):
        whole: list[Recorded] = []
        while len(whole) < SESSIONS:
            count = len(relay.recorded)
            beto.ask("sync")
            until("a session", lambda count=count: len(relay.recorded) >= count and beto.ask("status")["peers"])
            session = relay.recorded[-1]

            def long_enough(session: Recorded = session) -> bool:
                beto.ask("sync")  # compares digests: the session goes on
                return min(len(session.said), len(session.answered)) >= LOOKED_AT

            until("enough to look at", long_enough)
            session.cut()
            until("the cut to be seen", lambda: not beto.ask("status")["peers"])
            whole.append(session)
        for way in ("said", "answered"):
            heads = [int.from_bytes(getattr(session, way)[:LOOKED_AT], "big") for session in whole]
            assert len(set(heads)) == SESSIONS
            ever_one, ever_zero = 0, 0
            for head in heads:
                ever_one |= head
                ever_zero |= ~head & (1 << 8 * LOOKED_AT) - 1
            everything = (1 << 8 * LOOKED_AT) - 1
            assert bin(everything ^ ever_one) == bin(everything ^ ever_zero) == bin(0), "constant bits"


def test_a_hundred_strangers_who_never_finish_do_not_keep_a_member_out(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        beto.stop()
        strangers = [socket.create_connection(ana.endpoint) for _ in range(100)]
        try:
            for stranger in strangers:
                try:
                    stranger.sendall(b"\0")
                except ConnectionError:
                    continue  # the oldest had to give way
            started = time.monotonic()
            beto.start()
            until("the member to be in", lambda: beto.ask("status")["peers"] == 1)
            assert time.monotonic() - started < 5
        finally:
            for stranger in strangers:
                stranger.close()
