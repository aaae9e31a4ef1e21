"""Damage: a disk that lies is noticed, nothing that it changed is shown or sent, and peers still have the truth."""

import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from system.daemons import Daemon, fill, gathered, met, people, together, until

from p2pnode import client, keystore, paths
from p2pnode.failures import CommandError
from p2pnode.store.file import PAGE_SIZE, open_writer

pytestmark = pytest.mark.system

COUNT = 300
PAGES = 6  # damaged in the course of one test, each in a copy of its own


@dataclass
class Filed:
    """A home at rest, and what its board showed."""

    node: Daemon
    board: dict[str, Any] = field(default_factory=dict)

    def copy(self, name: str) -> Daemon:
        home = self.node.home.with_name(name)
        shutil.copytree(self.node.home, home, ignore=shutil.ignore_patterns(paths.SOCKET, paths.LOCK))
        copy = Daemon(home, new=False)
        copy.listen = self.node.listen
        return copy


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filed]:
    with people(tmp_path_factory.mktemp("damage"), "ana") as (ana,):
        ana.ask("space.create", name="vecinos")
        fill(ana, COUNT, at_once=50, text="Palabras y cosas. " * 12, tags=["prueba"])
        found = Filed(ana, {report["id"]: report for report in ana.ask("report.list", limit=0)})
        assert ana.stop() == 0
        yield found


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        (before,) = file.read(1)
        file.seek(at)
        file.write(bytes([before ^ 0x10]))


def assert_honest(node: Daemon, board: dict[str, Any]) -> None:
    """Everything that the node shows is what was shown before the damage; what it cannot read it says."""
    for method, params in (
        ("report.list", {"limit": 0}),
        ("search", {"words": "palabras", "limit": 0}),
        *(("report.show", {"id": id}) for id in sorted(board)[::50]),
    ):
        for report in asked(node, method, **params):
            assert report == board[report["id"]]


def asked(node: Daemon, method: str, **params: Any) -> list[Any]:
    """The reports that a question finds; none where the node says that it cannot read them."""
    try:
        told = node.ask(method, **params)
    except CommandError as refusal:
        if refusal.key in ("store.damaged", "report.unknown"):
            return []
        raise
    return told if type(told) is list else [told]


def test_a_bit_flipped_anywhere_in_the_store_is_noticed_and_nothing_false_is_shown(filed: Filed) -> None:
    size = (filed.node.home / paths.STORE).stat().st_size
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    draw = random.Random(seed)
    for number in range(PAGES):
        at = draw.randrange(PAGE_SIZE, size)
        print(f"page {at // PAGE_SIZE}")
        node = filed.copy(f"flipped{number}")
        flip(node.home / paths.STORE, at)
        node.launch()
        assert node.process is not None
        try:
            until("a beginning or an end", lambda node=node: answers(node) or node.process.poll() is not None)
            if node.process.poll() is not None:
                assert node.ended() == 1
                assert "damaged" in node.complaints
                assert "Traceback" not in node.complaints
                continue
            assert_honest(node, filed.board)
            checked = node.run("log", "check", "--json")
            assert checked.returncode == 1, "the check sees it"
            assert_honest(node, filed.board)
            assert node.stop() == 0
        finally:
            if node.process is not None:
                node.kill()


def answers(node: Daemon) -> bool:
    try:
        with client.Daemon(str(node.home)) as daemon:
            daemon.call("report.list", {"limit": 1})
        return True
    except CommandError as error:
        return error.key == "store.damaged"


def test_a_store_whose_first_page_is_damaged_or_cut_off_is_refused_and_left_as_it_was(filed: Filed) -> None:
    for name, harm in (
        ("salt", lambda path: flip(path, 3)),
        ("shape", lambda path: flip(path, 17)),
        ("first", lambda path: flip(path, 100)),
        ("empty", lambda path: path.write_bytes(b"")),
        ("plain", lambda path: path.write_bytes(b"SQLite format 3\0" + path.read_bytes()[16:])),
    ):
        node = filed.copy(name)
        store = node.home / paths.STORE
        harm(store)
        before = store.read_bytes()
        node.launch()
        assert node.ended() in (1, 6), name
        assert len(node.complaints.splitlines()) == 1, node.complaints
        assert store.read_bytes() == before


def test_a_damaged_key_file_is_refused_with_one_sentence(filed: Filed) -> None:
    size = (filed.node.home / paths.KEY).stat().st_size
    for at in range(0, size, max(1, size // 4)):
        node = filed.copy(f"key{at}")
        flip(node.home / paths.KEY, at)
        node.launch()
        assert node.ended() in (1, 5, 6)
        assert len(node.complaints.splitlines()) == 1, node.complaints


def test_a_row_that_says_something_else_is_not_shown_not_sent_and_comes_back_from_a_peer(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto", "carla") as (ana, beto, carla):
        carla.stop()
        fill(ana, 200, text="Palabras y cosas. " * 4)
        met(ana, beto)
        board = {report["id"]: report for report in ana.ask("report.list", limit=0)}
        for node in (ana, beto):
            assert node.stop() == 0
        changed = change_payload(beto, "Aviso número 100", "Aviso número 666")

        # Carla has nothing yet and gets it from beto alone.
        together([beto.start, carla.start])
        carla.ask("peer.add", address=beto.address)
        until("carla to get what is whole", lambda: carla.space["entries"] >= 64)  # up to the signature before it
        assert set(carla.titles()) <= {report["title"] for report in board.values()}
        assert beto.run("log", "check").returncode == 1
        assert beto.space["missing"] == 1
        assert changed not in {report["id"] for report in beto.ask("report.list", limit=0)}
        assert_honest(beto, board)

        ana.start()
        for node in (beto, carla):
            node.ask("sync")
        until("the payload to come back", lambda: beto.space["missing"] == 0)
        assert {report["id"]: report for report in beto.ask("report.list", limit=0)} == board
        met(ana, beto, carla)
        assert {report["id"]: report for report in carla.ask("report.list", limit=0)} == board
        beto.assert_good()


def test_a_row_found_damaged_while_a_peer_is_connected_is_asked_for_at_the_next_sync(tmp_path: Path) -> None:
    with gathered(tmp_path, "ana", "beto") as (ana, beto):
        fill(ana, 100)
        met(ana, beto)
        assert beto.stop() == 0
        change_payload(beto, "Aviso número 50", "Aviso número 66")
        beto.start()
        until("both to meet", lambda: beto.ask("status")["peers"] == 1)
        assert beto.run("log", "check").returncode == 1
        beto.ask("sync")
        until("the payload to come back", lambda: beto.space["missing"] == 0)
        assert sorted(beto.titles()) == sorted(ana.titles())
        beto.assert_good()


def change_payload(node: Daemon, title: str, other: str) -> str:
    """Puts another title of the same length into a payload behind the daemon's back; the id of the report."""
    assert len(title.encode()) == len(other.encode())
    key = keystore.open(node.home / paths.KEY, None)
    with closing(open_writer(node.home / paths.STORE, key, create=False)) as database:
        sql = "SELECT no, id, payload FROM entry WHERE instr(payload, ?)"
        found: Any = database.execute(sql, (title.encode(),)).fetchall()
        ((no, id, payload),) = found
        changed = payload.replace(title.encode(), other.encode())
        database.execute("UPDATE entry SET payload = ? WHERE no = ?", (changed, no))
    return str(id.hex())
