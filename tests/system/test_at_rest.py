"""At rest: with a passphrase, nothing that anybody wrote can be read in the home, neither running nor stopped."""

import base64
from pathlib import Path

import pytest
from system.daemons import Daemon, invited, met, together, until

from p2pnode import paths

pytestmark = pytest.mark.system

PASSPHRASE = "contraseña ñandú tortilla"

# Each stands for what a person typed there, and occurs nowhere else on earth.
MARKERS = {
    name: f"{word}qzxjkv"
    for name, word in {
        "title": "titulillo",
        "text": "parrafada",
        "tag": "etiquetilla",
        "place name": "lugarcejo",
        "search": "buscadura",
        "prefix search": "prefijote",
        "pen name": "plumilla",
        "guest's pen name": "plumaza",
        "space": "espaciote",
        "batch title": "lotecillo",
        "batch text": "loteparrafo",
        "address": "direccioncilla",
    }.items()
}


def forms(text: str) -> set[bytes]:
    """The text in every form in which it may lie about."""
    found = set()
    for spelt in (text, text.upper(), text.capitalize()):
        for encoded in (spelt.encode(), spelt.encode("utf-16-le"), spelt.encode("utf-16-be")):
            found |= {encoded, encoded.hex().encode(), encoded.hex().upper().encode()}
            for lead in range(3):  # what comes before decides where the letters of base64 begin
                whole = base64.b64encode(bytes(lead) + encoded)
                found.add(whole[(lead * 8 + 5) // 6 : (lead + len(encoded)) * 8 // 6])
    return found


def test_the_search_for_markers_would_find_each_form() -> None:
    for lead in range(6):
        text = b"x" * lead + b"titulilloqzxjkv and more"
        for written in (text, text.hex().encode(), base64.b64encode(text), text.decode().encode("utf-16-le")):
            assert any(form in written for form in forms("titulilloqzxjkv"))


def seen(home: Path, *others: Path) -> dict[str, list[str]]:
    """Which markers occur in which files."""
    files = [path for path in (*home.rglob("*"), *others) if path.is_file()]
    assert (home / paths.STORE) in files
    content = {path.name: path.read_bytes() for path in files}
    return {
        name: found
        for name, marker in MARKERS.items()
        if (found := [file for file, data in content.items() if any(form in data for form in forms(marker))])
    }


def secrets_seen(home: Path, *secrets: str) -> list[str]:
    """The same for what is no marker, as it stands."""
    return [path.name for path in home.rglob("*") if path.is_file() for s in secrets if s.encode() in path.read_bytes()]


def live(ana: Daemon, beto: Daemon) -> str:
    """A day of two people, in which every field is used; the invitation that let the second in."""
    ana.ask("space.create", name=f"Vecinos {MARKERS['space']}", pen=f"Ana {MARKERS['pen name']}")
    invitation = invited(ana)
    beto.ask("join", invite=invitation, name=MARKERS["guest's pen name"])
    report = {
        "category": "roadblock",
        "title": f"Camión {MARKERS['title']}",
        "text": f"Está {MARKERS['text']} en la esquina. " * 50,
        "tag": [MARKERS["tag"]],
        "place": "19.4326,-99.1332",
        "place_name": MARKERS["place name"],
        "basis": "saw",
        "lang": "es",
    }
    ana.ask("report.new", **report, once="ab" * 16)
    many = {"category": "other", "text": f"{MARKERS['batch text']} " * 20}
    records = [
        {"line": n, "mark": f"{n:032x}", "report": {**many, "title": f"{MARKERS['batch title']} {n}"}}
        for n in range(200)
    ]
    beto.ask("report.import", records=records)
    met(ana, beto)
    for node in (ana, beto):
        node.ask("peer.add", address=f"{MARKERS['address']}.example:4001")
        assert len(node.ask("search", words=f"{MARKERS['text']} {MARKERS['tag']}")) == 1
        assert node.ask("search", words=MARKERS["search"]) == []
        node.ask("search", words=f"{MARKERS['prefix search']}*")
        assert len(node.ask("report.list", tag=MARKERS["tag"])) == 1
        assert node.ask("log.check")["bad"] == 0
    return invitation


def test_no_marker_is_found_in_home_or_log_while_it_runs_after_a_stop_and_after_a_death(tmp_path: Path) -> None:
    ana = Daemon(tmp_path / "ana", passphrase=PASSPHRASE)
    beto = Daemon(tmp_path / "beto", passphrase=PASSPHRASE)
    with ana, beto:
        invitation = live(ana, beto)
        secrets = (PASSPHRASE, invitation, invitation[:40], *(report["id"] for report in ana.ask("report.list")))
        wal = Path(f"{ana.home / paths.STORE}-wal")
        assert wal.stat().st_size > 0, "the journal is looked at too"
        for node in (ana, beto):
            assert seen(node.home, node.stderr) == {}
            assert secrets_seen(node.home, *secrets) == []
        beto.kill()
        assert ana.stop() == 0
        for node in (ana, beto):
            assert seen(node.home, node.stderr) == {}
            assert secrets_seen(node.home, *secrets) == []

        # It was all there nevertheless.
        together([ana.start, beto.start])
        for node in (ana, beto):
            assert MARKERS["space"] in node.space["name"]
            assert len(node.ask("search", words=MARKERS["text"])) == 1
        until("addresses to be known still", lambda: MARKERS["address"] in str(beto.ask("peer.list")))


def test_without_a_passphrase_the_store_is_sealed_all_the_same_and_the_log_says_nothing(tmp_path: Path) -> None:
    ana, beto = Daemon(tmp_path / "ana"), Daemon(tmp_path / "beto")
    with ana, beto:
        live(ana, beto)
        beto.kill()
        assert ana.stop() == 0
        for node in (ana, beto):
            assert seen(node.home, node.stderr) == {}
            log = (node.home / paths.LOG).read_text()
            assert "127.0.0.1" not in log
            assert ana.listen is not None
            assert ana.listen.rpartition(":")[2] not in log


def test_a_wrong_passphrase_is_exit_code_6_changes_nothing_and_says_nothing_else(tmp_path: Path) -> None:
    ana = Daemon(tmp_path / "ana", passphrase=PASSPHRASE)
    with ana:
        ana.ask("space.create", name="vecinos")
        assert ana.stop() == 0
        before = {path.name: path.read_bytes() for path in ana.home.iterdir() if path.name != paths.LOCK}
        sentences = set()
        for wrong in ("contraseña ñandú tortill", "x" * 100_000):
            refused = ana.run("run", "--lan", "off", "--passphrase-file", "-", given=wrong + "\n")
            assert refused.returncode == 6
            sentences.add(refused.stderr)
        assert len(sentences) == 1
        assert {path.name: path.read_bytes() for path in ana.home.iterdir() if path.name != paths.LOCK} == before
        ana.start()
        assert ana.space["name"] == "vecinos"


def test_the_passphrase_is_never_in_the_arguments_or_the_environment_of_the_daemon(tmp_path: Path) -> None:
    ana = Daemon(tmp_path / "ana", passphrase=PASSPHRASE)
    secret = str(tmp_path / "ana.secret")
    started = ana.run("start", "--lan", "off", "--listen", "127.0.0.1:0", "--passphrase-file", secret)
    try:
        assert started.returncode == 0, started.stderr
        pid = int((ana.home / paths.LOCK).read_text())
        proc = Path(f"/proc/{pid}")
        for name in ("cmdline", "environ"):
            try:
                assert PASSPHRASE.encode() not in (proc / name).read_bytes()
            except PermissionError:
                continue  # not dumpable: nobody of the same user may look
    finally:
        assert ana.run("stop").returncode == 0
