"""Bundles on sticks between real daemons that are never on at once, and what bad files and descriptors do to them."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from system.daemons import ENVIRONMENT, PROGRAM, Daemon, fill, gathered, people, until

from p2pnode import client, homelock
from p2pnode.failures import CommandError, Exit

pytestmark = pytest.mark.system


def told(node: Daemon, *words: str, code: int = 0) -> Any:
    """What a command prints for programs."""
    done = node.run(*words, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout or done.stderr)


def open_files(node: Daemon) -> int:
    assert node.process is not None
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


@pytest.fixture(scope="module")
def ana(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Somebody with a space and some reports in it."""
    with people(tmp_path_factory.mktemp("bundles"), "ana") as (node,):
        node.ask("space.create", name="vecinos", pen="Ana")
        fill(node, 300, text="palabras " * 60)
        until("everything to be listed", lambda: not node.space["pending"])
        yield node


def test_two_that_are_never_on_at_once_are_equal_by_three_sticks(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        beto.stop()
        fill(ana, 1500)
        there, back = str(tmp_path / "there"), str(tmp_path / "back")
        out = told(ana, "bundle", "export", there)
        assert out["bytes"] == os.path.getsize(there)
        held = ana.space
        ana.stop()

        beto.start()
        beto.ask("report.new", category="other", title="Of beto")
        before = beto.space
        forecast = told(beto, "bundle", "import", there, "--dry-run")
        assert beto.space == before
        first = told(beto, "bundle", "import", there)
        assert first == forecast
        assert (first["new"], first["whole"]) == (1500, True)
        second = told(beto, "bundle", "import", there)
        assert (second["new"], second["known"]) == (0, out["entries"])
        answer = told(beto, "bundle", "export", back, "--for-peer")
        assert answer["entries"] == 1
        assert os.path.getsize(back) < os.path.getsize(there) / 5
        since = told(beto, "bundle", "export", str(tmp_path / "since"), "--since", there)
        assert since["entries"] == 1
        fingerprint = beto.space["fingerprint"]
        beto.stop()

        ana.start()
        assert told(ana, "bundle", "import", back)["new"] == 1
        assert ana.space["fingerprint"] == fingerprint != held["fingerprint"]
        assert sorted(os.listdir(tmp_path)) == sorted(
            ["ana", "ana.stderr", "beto", "beto.stderr", "there", "back", "since"]
        )
        for node in (ana, beto):
            if node.process is None:
                node.start()
            node.assert_good()


def test_exit_codes_tell_damage_from_what_is_none_of_ours(ana: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "b"
    assert told(ana, "bundle", "export", str(path))["entries"] > 300
    content = path.read_bytes()
    for name, damaged, code in (
        ("whole", content, Exit.DONE),
        ("cut", content[:-1000], Exit.FAILED),
        ("longer", content + b"x", Exit.FAILED),
        ("short", content[:1000], Exit.REFUSED),
        ("empty", b"", Exit.REFUSED),
        ("noise", os.urandom(200_000), Exit.REFUSED),
    ):
        (tmp_path / name).write_bytes(damaged)
        done = ana.run("bundle", "import", str(tmp_path / name))
        assert done.returncode == code, (name, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
    assert told(ana, "bundle", "export", str(path), code=1)["error"]["code"] == 1
    assert path.read_bytes() == content
    assert told(ana, "bundle", "export", str(tmp_path / "x"), "--for-peer")["entries"] == 0
    assert told(ana, "bundle", "import", str(tmp_path), code=5)["error"]["code"] == 5
    assert told(ana, "bundle", "import", "/dev/zero", code=5)["error"]["code"] == 5
    os.mkfifo(tmp_path / "pipe")
    assert told(ana, "bundle", "import", str(tmp_path / "pipe"), code=5)["error"]["code"] == 5


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_on_a_full_stick_an_export_fails_with_one_sentence_and_leaves_nothing(ana: Daemon, tmp_path: Path) -> None:
    with small_disk(tmp_path / "stick", "64k") as stick:
        done = ana.run("bundle", "export", str(stick / "b"))
        assert done.returncode == 1
        assert done.stderr == "p2pnode: the file cannot be read or written (No space left on device).\n"
        assert os.listdir(stick) == []
        assert ana.ask("status")


def test_whoever_interrupts_an_export_finds_nothing_half_done(tmp_path: Path) -> None:
    with people(tmp_path, "ana") as (ana,):
        ana.ask("space.create", name="vecinos")
        fill(ana, 3000, at_once=100, text="x" * 8000)
        path = tmp_path / "b"
        before = open_files(ana)
        for number, code in ((signal.SIGINT, Exit.INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)):
            command = ana.command("bundle", "export", str(path))
            with subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.DEVNULL) as dying:
                until("the file to begin", (tmp_path / "b.part").exists)
                dying.send_signal(number)
                assert dying.wait(10) == code
            assert not path.exists()
            assert (tmp_path / "b.part").exists() == (number == signal.SIGKILL)
            until("its file to be closed", lambda: open_files(ana) <= before)
        refused = ana.run("bundle", "export", str(path))
        assert (refused.returncode, "b.part is there" in refused.stderr) == (1, True)
        (tmp_path / "b.part").unlink()
        assert told(ana, "bundle", "export", str(path))["entries"] == 3001


def test_a_daemon_killed_in_the_middle_of_an_import_goes_on_the_next_time(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        beto.stop()
        fill(ana, 6000, text="x" * 500)
        told(ana, "bundle", "export", str(tmp_path / "b"))
        fingerprint = ana.space["fingerprint"]
        ana.stop()
        beto.start()
        command = beto.command("bundle", "import", str(tmp_path / "b"))
        with subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.DEVNULL) as importing:
            until("some of it to be here", lambda: beto.space["entries"] > 500)
            beto.kill()
            assert importing.wait(10) == Exit.NO_DAEMON
        beto.start()
        again = told(beto, "bundle", "import", str(tmp_path / "b"))
        assert again["new"] + again["known"] >= 6000
        assert (again["refused"], again["early"], again["unknown"]) == (0, 0, 0)
        assert beto.space["fingerprint"] == fingerprint
        beto.assert_good()


def test_whatever_descriptor_is_handed_over_is_answered_and_closed(ana: Daemon, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"x" * 10_000)
    (tmp_path / "empty").touch()
    ends = socket.socketpair()
    pipe = os.pipe()
    odd = {
        os.open(tmp_path, os.O_RDONLY): Exit.REFUSED,
        ends[0].fileno(): Exit.REFUSED,
        pipe[0]: Exit.REFUSED,
        pipe[1]: Exit.REFUSED,
        os.open("/dev/null", os.O_RDWR): Exit.REFUSED,
        os.open("/dev/zero", os.O_RDWR): Exit.REFUSED,
        os.open("/proc/self/mem", os.O_RDONLY): Exit.REFUSED,
        os.open(tmp_path / "b", os.O_WRONLY): Exit.FAILED,
        os.open(tmp_path / "b", os.O_PATH): Exit.FAILED,
        os.open(tmp_path / "b", os.O_RDONLY): Exit.REFUSED,
    }
    until("idle connections to go", lambda: ana.ask("status"))
    before = open_files(ana)
    for _ in range(30):
        for number, code in odd.items():
            with client.Daemon(str(ana.home)) as daemon, pytest.raises(CommandError) as refused:
                daemon.call("bundle.import", {"dry_run": False}, file=number)
            assert refused.value.code == code
            with client.Daemon(str(ana.home)) as daemon, pytest.raises(CommandError) as refused:
                daemon.call("status", {}, file=number)
            assert refused.value.code is Exit.REFUSED
    for number, code in {**odd, os.open(tmp_path / "empty", os.O_RDONLY): Exit.FAILED}.items():
        with client.Daemon(str(ana.home)) as daemon, pytest.raises(CommandError) as refused:
            daemon.call("bundle.export", {}, file=number)
        assert refused.value.code in (code, Exit.FAILED)
        os.close(number) if number != ends[0].fileno() else None
    for end in ends:
        end.close()
    with client.Daemon(str(ana.home)) as daemon:
        for method in ("bundle.import", "bundle.export", "bundle.since"):
            for params in ({"file": 5}, {"file": 0}, {"file": {"number": 1}}, {}):
                with pytest.raises(CommandError) as refused:
                    daemon.call(method, params)
                assert refused.value.code is Exit.REFUSED
        with pytest.raises(CommandError) as refused, (tmp_path / "new").open("wb") as file:
            daemon.call("bundle.export", {"since": "f" * 32}, file=file.fileno())
        assert refused.value.code is Exit.REFUSED
    until("all of them to be closed", lambda: open_files(ana) <= before)
    assert (tmp_path / "b").read_bytes() == b"x" * 10_000
    assert not any(event.startswith("control.failed") for event in ana.events)


def test_a_gigabyte_that_is_no_bundle_holds_nobody_up(ana: Daemon, tmp_path: Path) -> None:
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(1 << 40)
    started = time.monotonic()
    assert ana.run("bundle", "import", str(tmp_path / "zeros")).returncode == Exit.REFUSED
    assert time.monotonic() - started < 3


# The other commands of the same kind, on a real daemon


def test_explain_finds_what_is_here_and_says_what_would_help(ana: Daemon) -> None:
    report = ana.ask("report.list", limit=1)[0]["id"]
    here = told(ana, "sync", "explain", report[:8])
    assert (here["id"], here["here"], here["peers"], here["relays"]) == (report, True, 0, 0)
    absent = told(ana, "sync", "explain", "00" * 32)
    assert (absent["here"], absent["reasons"][0]["key"]) == (False, "explain.unknown")
    whole = told(ana, "sync", "explain")
    assert (whole["id"], whole["here"], whole["relays_holding"]) == (None, None, None)
    assert {"explain.no_path", "explain.lan_off"} <= {reason["key"] for reason in whole["reasons"]}
    assert ana.run("sync", "explain", "zz").returncode == Exit.REFUSED
    assert ana.run("sync", "explain", report, "--space", "nowhere").returncode == Exit.NOT_FOUND
    assert told(ana, "sync")["relays"] == 0
    assert {"node", "spaces", "peers", "paths"} == set(told(ana, "status"))


def test_an_invitation_by_relay_needs_one_that_answers(tmp_path: Path) -> None:
    with people(tmp_path, "ana", "beto") as (ana, beto):
        ana.ask("space.create", name="vecinos")
        alone = ana.run("invite", "create", "--by-relay")
        assert (alone.returncode, "no relay yet" in alone.stderr) == (1, True)
        plain = ana.run("invite", "create").stdout.strip()
        joined = beto.run("join", "-", "--by-relay", given=plain)
        assert (joined.returncode, "names no relay" in joined.stderr) == (5, True)
        for text in ("nowhere", "127.0.0.1:7000", "127.0.0.1:7000/abc", "127.0.0.1:0/" + "a" * 52):
            refused = ana.run("relay", "add", "-", given=text)
            assert (refused.returncode, len(refused.stderr.splitlines())) == (5, 1), text
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        relay = f"127.0.0.1:{port}/" + "a" * 51 + "q"
        assert ana.run("relay", "add", "-", given=relay).returncode == 0
        down = ana.run("invite", "create", "--by-relay")
        assert (down.returncode, "relay list" in down.stderr) == (1, True)
        until("it to be tried", lambda: told(ana, "relay", "list")[0]["state"] == "unreachable")
        keys = [reason["key"] for reason in told(ana, "sync", "explain")["reasons"]]
        assert "explain.relay_unreachable" in keys
        waited = told(ana, "sync", "--wait", "--timeout", "10")
        assert (waited["relays"], waited["relays_equal"]) == (1, 0)
        assert told(ana, "relay", "remove", f"127.0.0.1:{port}")["relay"] == relay
        assert ana.run("relay", "remove", f"127.0.0.1:{port}").returncode == Exit.NOT_FOUND
        assert told(ana, "relay", "list") == []


def test_wipe_ends_a_relay_that_runs_in_the_home_and_takes_it_all(tmp_path: Path) -> None:
    with people(tmp_path, "ana") as (ana,):
        command = [*PROGRAM, "relay", "run", "--listen", "127.0.0.1:0", "--home", str(ana.home)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes) as relay:
            assert relay.stdout is not None
            line = relay.stdout.readline().strip()
            assert line.startswith("127.0.0.1:")
            assert homelock.holder(str(ana.home / "relay")) == relay.pid
            started = time.monotonic()
            assert ana.run("wipe", "--yes").returncode == 0
            assert time.monotonic() - started < 2
            assert relay.wait(5) == -signal.SIGKILL
        assert not ana.home.exists()
        assert ana.ended() == -signal.SIGKILL
