"""The key file: opens with the right passphrase only, and says no to every change."""

import json
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pnode import keystore
from p2pnode.failures import CommandError, Exit

PHRASE = "contraseña ñandú"


@pytest.fixture(scope="module", autouse=True)
def quicker() -> Iterator[None]:
    """Fewer passes than in the world, where each of these passphrases costs half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keystore, "OPS", 2)
        yield


def refusal(path: Path, passphrase: str | None) -> tuple[Exit, str]:
    with pytest.raises(CommandError) as caught:
        keystore.open(path, passphrase)
    return caught.value.code, caught.value.message


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    keystore.create(tmp_path / "key.json", None, os.urandom)
    return tmp_path / "key.json"


@pytest.fixture(scope="module")
def sealed_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    path = tmp_path_factory.mktemp("sealed") / "key.json"
    master = keystore.create(path, PHRASE, os.urandom)
    return path.read_bytes(), master


@pytest.fixture
def sealed(tmp_path: Path, sealed_file: tuple[bytes, bytes]) -> Path:
    (tmp_path / "key.json").write_bytes(sealed_file[0])
    return tmp_path / "key.json"


def test_a_passphrase_opens_in_whichever_unicode_form_it_is_typed(
    sealed: Path, sealed_file: tuple[bytes, bytes]
) -> None:
    assert keystore.needs_passphrase(sealed)
    for form in ("NFC", "NFD"):
        assert keystore.open(sealed, unicodedata.normalize(form, PHRASE)) == sealed_file[1]


@pytest.mark.parametrize("wrong", ["", "contrasena nandu", "Contraseña ñandú", "contraseña  ñandú", "x" * 1_000_000])
def test_every_wrong_passphrase_gets_the_same_answer(sealed: Path, wrong: str) -> None:
    before = sealed.read_bytes()
    assert refusal(sealed, wrong) == (Exit.LOCKED, "wrong passphrase.")
    assert sealed.read_bytes() == before


def test_a_guess_costs_as_much_as_it_should(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keystore, "OPS", 16)
        keystore.create(tmp_path / "key.json", PHRASE, os.urandom)
        header = json.loads((tmp_path / "key.json").read_bytes())
    assert (header["kdf"], header["ops"], header["memory_bytes"]) == ("argon2id", 16, 64 * 1024 * 1024)


def test_no_passphrase_at_all_is_a_wrong_one(sealed: Path) -> None:
    assert refusal(sealed, None) == (Exit.LOCKED, "wrong passphrase.")


def test_without_passphrase_the_key_comes_back(tmp_path: Path) -> None:
    master = keystore.create(tmp_path / "key.json", None, os.urandom)
    assert not keystore.needs_passphrase(tmp_path / "key.json")
    assert keystore.open(tmp_path / "key.json", None) == master


def test_two_files_of_one_passphrase_have_nothing_in_common(tmp_path: Path, sealed_file: tuple[bytes, bytes]) -> None:
    keystore.create(tmp_path / "other.json", PHRASE, os.urandom)
    first, second = json.loads(sealed_file[0]), json.loads((tmp_path / "other.json").read_bytes())
    assert first["salt"] != second["salt"]
    assert first["sealed"] != second["sealed"]


def test_every_flipped_bit_of_a_bare_file_is_noticed(bare: Path) -> None:
    whole, master = bare.read_bytes(), keystore.open(bare, None)
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        bare.write_bytes(changed)
        try:
            opened = keystore.open(bare, None)
        except CommandError:
            continue
        assert opened == master  # white space between the fields says nothing
        assert json.loads(changed) == json.loads(whole)


def test_every_truncation_is_noticed(bare: Path) -> None:
    whole = bare.read_bytes()
    for size in range(len(whole) - 1):
        bare.write_bytes(whole[:size])
        assert refusal(bare, None)[0] == Exit.FAILED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ops", 1),
        ("ops", 0),
        ("ops", True),
        ("ops", 2.0),
        ("ops", 10**9),
        ("memory_bytes", 8192),
        ("memory_bytes", 2**40),
        ("salt", "00"),
        ("salt", "zz" * 16),
        ("kdf", "none"),
        ("kdf", "scrypt"),
        ("format", "p2pnode key 0"),
        ("sealed", ""),
        ("more", 1),
    ],
)
def test_changed_parameters_are_refused_before_anything_is_computed(sealed: Path, field: str, value: object) -> None:
    sealed.write_text(json.dumps({**json.loads(sealed.read_bytes()), field: value}))
    assert refusal(sealed, PHRASE)[0] == Exit.FAILED


@pytest.mark.parametrize(("field", "value"), [("ops", 4), ("memory_bytes", 65 * 1024 * 1024), ("salt", "00" * 16)])
def test_parameters_are_authenticated_even_where_they_are_strong_enough(
    sealed: Path, field: str, value: object
) -> None:
    sealed.write_text(json.dumps({**json.loads(sealed.read_bytes()), field: value}))
    assert refusal(sealed, PHRASE)[0] == Exit.LOCKED


def test_an_existing_file_is_never_touched(bare: Path) -> None:
    before = bare.read_bytes()
    with pytest.raises(CommandError, match=r"home\.already"):
        keystore.create(bare, None, os.urandom)
    assert bare.read_bytes() == before
    assert os.listdir(bare.parent) == [bare.name]


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keystore.create(tmp_path / "key.json", None, os.urandom)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600


def test_links_and_absent_files_are_refused(bare: Path) -> None:
    (bare.parent / "link").symlink_to(bare)
    assert refusal(bare.parent / "link", None)[0] == Exit.FAILED
    assert refusal(bare.parent / "absent", None)[0] == Exit.FAILED


def test_what_a_killed_create_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "key.json.new").write_text("half")
    master = keystore.create(tmp_path / "key.json", None, os.urandom)
    assert keystore.open(tmp_path / "key.json", None) == master
    assert os.listdir(tmp_path) == ["key.json"]
