"""The life of a daemon: one per home, started and stopped as people and systems do it, and gone at once when wiped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from system.daemons import ENVIRONMENT, PROGRAM, Daemon, gathered, people, until

from p2pnode import homelock, paths
from p2pnode.commands import NOUNS

pytestmark = pytest.mark.system

NEED_A_DAEMON = [
    "status",
    "stop",
    "space create x",
    "space list",
    "invite create",
    "join -",
    "report new --category other --title x",
    "report list",
    "report show abcdef",
    "report import -",
    "search x",
    "watch",
    "peer add 127.0.0.1:1",
    "peer list",
    "sync",
    "sync explain",
    "bundle export nowhere",
    "bundle import key.json",
    "relay add -",
    "relay list",
    "relay remove 127.0.0.1:1",
    "log check",
]
HEAVY = {"trio", "nacl", "zeroconf", "asyncio", "logging", "apsw", "cbor2", "segno", "ssl"}


def test_a_second_daemon_on_one_home_is_refused_and_the_first_is_not_disturbed(tmp_path: Path) -> None:
    with people(tmp_path, "ana") as (ana,):
        store = ana.home / paths.STORE
        before = store.stat().st_mtime_ns
        second = ana.run("run", "--listen", "127.0.0.1:0", "--lan", "off")
        assert second.returncode == 1
        assert str(ana.home) in second.stderr
        assert store.stat().st_mtime_ns == before
        assert ana.ask("status")["spaces"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_the_other_side_is_told(tmp_path: Path, number: signal.Signals) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        started = time.monotonic()
        assert ana.stop(number) == 0
        assert time.monotonic() - started < 2
        until("the end of the session", lambda: beto.ask("status")["peers"] == 0)
        ends = [line for line in beto.events if line.startswith("link.closed") and "side=initiator" in line]
        assert "reason=closed" in ends[-1] or "reason=ended" in ends[-1], "CLOSE came, not a broken line"
        assert not (ana.home / paths.SOCKET).exists()
        assert {path.name for path in ana.home.iterdir()} <= {
            paths.KEY,
            paths.SETTINGS,
            paths.STORE,
            paths.LOG,
            paths.LOCK,
        }, "no journal is left"
        assert ana.events[-1].startswith("node.stopped")


def test_a_killed_daemon_leaves_a_socket_that_the_next_one_takes_over(tmp_path: Path) -> None:
    with people(tmp_path, "ana") as (ana,):
        ana.ask("space.create", name="vecinos")
        ana.kill()
        assert (ana.home / paths.SOCKET).is_socket()
        absent = ana.run("status")
        assert absent.returncode == 3
        assert "p2pnode start" in absent.stderr
        ana.start()
        assert ana.space["name"] == "vecinos"
        assert (ana.home / paths.SOCKET).stat().st_mode & 0o777 == 0o600
        assert ana.home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("what", ["a file", "a link", "a live socket of somebody else"])
def test_what_is_not_a_stale_socket_of_ours_is_left_alone(tmp_path: Path, what: str) -> None:
    import socket

    with people(tmp_path, "ana", start=False) as (ana,), socket.socket(socket.AF_UNIX) as other:
        path = ana.home / paths.SOCKET
        match what:
            case "a file":
                path.write_text("mine")
            case "a link":
                path.symlink_to(tmp_path / "elsewhere")
            case _:
                other.bind(str(path))
                other.listen()
        ana.launch()
        assert ana.ended() == 1
        assert path.exists() or path.is_symlink()
        assert not (tmp_path / "elsewhere").exists()


def test_start_returns_when_it_answers_and_stop_when_the_home_is_free(tmp_path: Path) -> None:
    with people(tmp_path, "ana", start=False) as (ana,):
        started = ana.run("start", "--listen", "127.0.0.1:0", "--lan", "off")
        assert started.returncode == 0, started.stderr
        try:
            assert ana.ask("status")["spaces"] == []
            again = ana.run("start", "--listen", "127.0.0.1:0", "--lan", "off")
            assert again.returncode == 0
        finally:
            assert ana.run("stop").returncode == 0
        assert homelock.holder(str(ana.home)) is None
        assert ana.run("status").returncode == 3
        assert ana.run("stop").returncode == 3


def test_a_port_that_somebody_has_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    with people(tmp_path, "ana") as (ana,):
        beto = Daemon(tmp_path / "beto")
        refused = beto.run("run", "--listen", ana.address, "--lan", "off")
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
        assert "Traceback" not in refused.stderr


def test_every_command_that_needs_a_daemon_exits_3_without_one_and_names_what_starts_it(tmp_path: Path) -> None:
    every = {f"{noun} {verb}".strip() for noun, (_, verbs) in NOUNS.items() for verb in verbs or ("",)}
    asked = {" ".join(command.split()[: 2 if NOUNS[command.split()[0]][1] else 1]) for command in NEED_A_DAEMON}
    assert every - asked == {"init", "run", "start", "demo", "wipe", "service install", "relay run"}
    with people(tmp_path, "ana", start=False) as (ana,):
        (tmp_path / "key.json").touch()  # what is to be imported has to be there
        for command in NEED_A_DAEMON:
            done = ana.run(*command.split(), given="")
            assert done.returncode == 3, f"{command}: {done.stderr}"
            assert "p2pnode start" in done.stderr, command
            assert done.stdout == "", command
        bare = subprocess.run(
            [*PROGRAM, "status", "--home", str(tmp_path / "nowhere")],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert bare.returncode == 3
        assert "p2pnode init" in bare.stderr


def test_wipe_takes_under_two_seconds_and_leaves_nothing_while_the_daemon_runs(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, _):
        ana.ask("report.new", category="other", title="To be forgotten")
        started = time.monotonic()
        wiped = ana.run("wipe", "--yes")
        assert time.monotonic() - started < 2
        assert wiped.returncode == 0, wiped.stderr
        assert not ana.home.exists()
        assert ana.ended() == -signal.SIGKILL
        assert ana.run("status").returncode == 3


def test_status_imports_nothing_heavy_and_answers_in_a_tenth_of_a_second(tmp_path: Path) -> None:
    with people(tmp_path, "ana") as (ana,):
        ana.ask("space.create", name="vecinos")
        command = [sys.executable, "-X", "importtime", "-m", "p2pnode", "status", "--json", "--home", str(ana.home)]
        told = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        imported = {line.rpartition("|")[2].strip() for line in told.stderr.splitlines() if "|" in line}
        assert "p2pnode.client" in imported
        assert {name.partition(".")[0] for name in imported} & HEAVY == set()

        def seconds() -> float:
            started = time.monotonic()
            assert ana.run("status").returncode == 0
            return time.monotonic() - started

        until("an answer within a tenth of a second", lambda: seconds() < 0.1)  # others may keep this machine busy


def test_a_home_moved_while_nothing_runs_is_the_same_node(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        beto.ask("report.new", category="other", title="Before the move")
        beto.stop()
        moved = Daemon(beto.home.rename(tmp_path / "moved"), new=False)
        with moved:
            until("both to meet", lambda: moved.ask("status")["peers"] == 1)
            moved.ask("report.new", category="other", title="After the move")
            until("both reports", lambda: sorted(ana.titles()) == ["After the move", "Before the move"])
            assert ana.ask("log.check")["forks"] == 0
            assert {report["author"]["name"] for report in ana.ask("report.list")} == {"beto"}


def test_a_home_whose_path_is_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    deep = tmp_path / ("ancha-es-castilla-" * 5) / ("y-larga-la-noche-" * 5)
    deep.mkdir(parents=True)
    assert len(os.fsencode(deep)) > 108
    with Daemon(deep / "home") as ana:
        assert ana.run("status").returncode == 0
        assert ana.stop() == 0
