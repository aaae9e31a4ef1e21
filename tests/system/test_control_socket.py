"""The control socket of a real daemon, used badly: who does not read, or talks rubbish, harms nobody else."""

import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from system.daemons import ENVIRONMENT, Daemon, batch, gathered, people, until

from p2pnode import client, paths
from p2pnode.failures import CommandError, Exit

pytestmark = pytest.mark.system

LAG_SECONDS_MAX = 1.0


@pytest.fixture(scope="module")
def ana(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with people(tmp_path_factory.mktemp("control"), "ana") as (node,):
        node.ask("space.create", name="vecinos")
        yield node


def plugged_in(node: Daemon) -> socket.socket:
    """A raw connection to the control socket."""
    connection = socket.socket(socket.AF_UNIX)
    directory = os.open(node.home, os.O_RDONLY)
    try:
        connection.connect(paths.reachable(directory, str(node.home / paths.SOCKET)))
    finally:
        os.close(directory)
    connection.settimeout(10)  # not before: a connect that may not wait fails when the backlog is full
    return connection


def line(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


def everything(connection: socket.socket) -> bytes:
    """What comes until the daemon hangs up."""
    received = bytearray()
    with suppress(ConnectionError):
        while data := connection.recv(1 << 20):
            received += data
    return bytes(received)


class Watcher:
    """A client that reads: when each report that it was told of came."""

    def __init__(self, node: Daemon) -> None:
        self.came: dict[str, float] = {}
        self.watching = False
        self._daemon = client.Daemon(str(node.home))
        self._thread = Thread(target=self._watch)
        self._thread.start()
        until("the watcher", lambda: self.watching)

    def _watch(self) -> None:
        try:
            self._daemon.call("watch", {}, told=self._told, seconds=None)
        except CommandError as error:
            assert error.code is Exit.NO_DAEMON  # noqa: PT017 (it is a thread's end, not a test's subject)

    def _told(self, note: Any) -> None:
        if note.get("watching"):
            self.watching = True
        else:
            self.came[note["title"]] = time.monotonic()

    def close(self) -> None:
        self._daemon._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._daemon.__exit__()


def test_a_watcher_that_does_not_read_is_cut_off_and_delays_neither_publishing_nor_other_watchers(
    tmp_path: Path,
) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto), plugged_in(ana) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(line("watch"))
        near, far = Watcher(ana), Watcher(beto)
        slowest, filed = 0.0, dict[str, float]()
        for first in range(0, 1500, 100):
            records = batch(first, 100, text="x" * 8000)
            started = time.monotonic()
            ana.ask("report.import", records=records)
            slowest = max(slowest, time.monotonic() - started)
            filed |= {record["report"]["title"]: started for record in records}
        assert slowest < LAG_SECONDS_MAX
        until("the other watchers to be told", lambda: len(near.came) == len(far.came) == 1500)
        for watcher in (near, far):
            assert max(watcher.came[title] - filed[title] for title in filed) < LAG_SECONDS_MAX + slowest
            watcher.close()
        received = everything(deaf)
        assert received.count(b"\n") < 1500, "what it did not read was not kept for it"
        assert "control.closed reason=unread" in ana.events
        assert ana.ask("status")["peers"] == 1


def test_a_line_of_more_than_a_mebibyte_is_refused_and_others_are_served_meanwhile(ana: Daemon) -> None:
    with plugged_in(ana) as glutton:
        glutton.sendall(b"x" * (1 << 20))
        assert ana.ask("status")
        with suppress(ConnectionError):
            glutton.sendall(b"x" * (1 << 20))
        answer = json.loads(everything(glutton).partition(b"\n")[0])
        assert answer["error"]["code"] == -32600
    assert ana.ask("status")


def test_rubbish_is_answered_by_an_error_each_and_the_connection_lives_on(ana: Daemon) -> None:
    rubbish = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\0\0\0",
        b"\xff\xfe{}",
        b"NaN",
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b'{"jsonrpc":"2.0","id":1,"method":"status","params":[]}',
        b'{"jsonrpc":"2.0","id":true,"method":"status"}',
        b'{"jsonrpc":"2.0","id":1,"method":"no.such"}',
        b'{"jsonrpc":"2.0","id":1,"method":"status","params":{"no":1}}',
        b'{"jsonrpc":"2.0","id":1,"method":"search","params":{"words":"\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"search","params":{"words":1e400}}',
        b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"status"}',
        line("search", words="\" OR * NEAR( ) AND -x : ^ '").strip(),
        line("report.list", limit=-1).strip(),
        line("report.list", limit=10**400).strip(),
        line("report.list", offset=1e308).strip(),
        line("report.list", near="x,y", radius=1).strip(),
        line("report.show", id="zzzzzz").strip(),
        line("report.import", records=[1, None, {}]).strip(),
        line("report.new", category="other", title="x" * 900_000).strip(),
        line("join", invite="x").strip(),
        line("peer.add", address="nowhere").strip(),
    ]
    with plugged_in(ana) as connection, connection.makefile("rb") as lines:
        for said in rubbish:
            connection.sendall(said + b"\n")
            answer = json.loads(lines.readline())
            assert "error" in answer or answer["result"] == [], said[:80]
            assert answer.get("error", {}).get("code") != -32603, f"a bug of ours: {said[:80]!r}"
        connection.sendall(line("status"))
        assert json.loads(lines.readline())["result"]["spaces"]
    assert not any(event.startswith("control.failed") for event in ana.events)


def test_three_hundred_idle_clients_keep_nobody_out(ana: Daemon) -> None:
    idle = [plugged_in(ana) for _ in range(300)]
    try:
        started = time.monotonic()
        assert ana.ask("status")
        assert ana.run("report", "list").returncode == 0
        assert time.monotonic() - started < 2
    finally:
        for connection in idle:
            connection.close()


def test_a_call_repeated_with_the_same_once_publishes_nothing_twice_not_even_at_the_same_time(ana: Daemon) -> None:
    before = ana.space["entries"]
    report = {"category": "other", "title": "Only once", "once": "0123456789abcdef" * 2}
    answers: list[Any] = []
    callers = [Thread(target=lambda: answers.append(ana.ask("report.new", **report))) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert ana.space["entries"] == before + 1
    assert all(answer == answers[0] for answer in answers)

    ana.kill()
    ana.start()
    assert ana.ask("report.new", **report) == answers[0]
    assert ana.space["entries"] == before + 1
    other = ana.ask("report.new", **{**report, "once": "f" * 32})
    assert other["id"] != answers[0]["id"]


def test_a_client_that_dies_while_it_asks_leaves_all_of_its_report_or_nothing(ana: Daemon) -> None:
    draw = random.Random(7)
    count, before = len(ana.titles()), set(ana.titles())
    expected = set()
    for number in range(30):
        asked = line("report.new", category="other", title=f"Dying words {number}", once=f"{number:032x}")
        cut = draw.randrange(len(asked)) if number % 2 else len(asked)
        with plugged_in(ana) as dying:
            dying.sendall(asked[:cut])
        if cut == len(asked):
            expected.add(f"Dying words {number}")
    until("what was asked to be done", lambda: set(ana.titles()) - before == expected)

    # Who does not know whether it worked asks again.
    for number in range(30):
        ana.ask("report.new", category="other", title=f"Dying words {number}", once=f"{number:032x}")
    assert len(ana.titles()) == count + 30


def test_an_import_killed_half_way_is_whole_batches_and_the_next_one_adds_the_rest(tmp_path: Path) -> None:
    reports = "".join(
        json.dumps({"category": "other", "title": f"Line {n}", "text": "palabras " * 40}) + "\n" for n in range(4000)
    )
    path = tmp_path / "many.jsonl"
    path.write_text(reports)
    with people(tmp_path, "ana") as (ana,):
        ana.ask("space.create", name="vecinos")
        command = ana.command("report", "import", str(path), "--format", "jsonl", "--json")
        dying = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        until("the first batches", lambda: ana.space["entries"] > 100)
        dying.kill()
        dying.wait()
        told = json.loads(ana.run("report", "import", str(path), "--format", "jsonl", "--json").stdout)
        assert told["skipped"] > 0 < told["imported"]
        assert told["imported"] + told["skipped"] == 4000
        assert sorted(ana.titles()) == sorted(f"Line {n}" for n in range(4000))
        ana.assert_good()
