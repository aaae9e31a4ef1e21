"""The string that invites: what survives a chat program, and what every damage is called."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import cbor, keys
from protocol.errors import InputRefused, LocalProtocolError
from protocol.invite import ADDRESSES_MAX, Address, Invitation, Relay, decode, encode, parse_address

INVITATION = Invitation(
    space=bytes(range(32)),
    join_secret=b"j" * 32,
    admission_seed=b"s" * 32,
    expires_s=1_790_000_000,
    addresses=(Address("192.0.2.7", 4001), Address("2001:db8::7", 4001), Address("node.example", 1)),
    relays=(Relay(Address("relay.example", 65535), b"r" * 32),),
)

key = st.binary(min_size=32, max_size=32)
label = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
host = st.one_of(
    st.ip_addresses(v=4, network="198.51.100.0/24").map(str),
    st.ip_addresses(v=6, network="2000::/3").map(str),
    st.lists(label, min_size=1, max_size=4).map(".".join),
)
address = st.builds(Address, host, st.integers(1, 65535))
invitation = st.builds(
    Invitation,
    key,
    key,
    key,
    st.integers(0, 2**53 - 1),
    st.lists(address, max_size=ADDRESSES_MAX).map(tuple),
    st.lists(st.builds(Relay, address, key), max_size=ADDRESSES_MAX).map(tuple),
)


def refusal(text: str) -> str:
    """The reason for which a string is refused; the error must not repeat any of it."""
    with pytest.raises(InputRefused) as caught:
        decode(text)
    assert caught.value.field == "invite"
    assert caught.value.__cause__ is None
    assert len(text) < 8 or text.strip() not in str(caught.value)
    return caught.value.reason


def framed(body: object, version: int = 1) -> str:
    """A string with a right checksum around any body."""
    data = cbor.encode(body)
    data = bytes([version]) + len(data).to_bytes(2, "big") + data
    return base64.b32encode(data + keys.hash_of(b"p2pnode string 1", data, 4)).decode().rstrip("=").lower()


@given(invitation)
def test_what_was_encoded_is_decoded(given_invitation: Invitation) -> None:
    assert decode(encode(given_invitation)) == given_invitation


def test_the_string_is_made_of_lower_case_letters_and_digits_only() -> None:
    text = encode(INVITATION)
    assert text.isascii()
    assert text.isalnum()
    assert text == text.lower()


@pytest.mark.parametrize(
    "mangled",
    [
        lambda text: f"  {text}\n",
        lambda text: text.upper(),
        lambda text: text[0].upper() + text[1:],
        lambda text: "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: "\u00a0".join(text[at : at + 4] for at in range(0, len(text), 4)),
        lambda text: "\ufeff" + text[:40] + "\u200b" + text[40:] + "\u00ad",
    ],
    ids=["padded", "upper case", "capitalised", "wrapped", "grouped", "invisible characters"],
)
def test_what_programs_do_to_text_does_no_harm(mangled: Callable[[str], str]) -> None:
    assert decode(mangled(encode(INVITATION))) == INVITATION


def test_every_changed_character_is_refused() -> None:
    text = encode(INVITATION)
    reasons = set()
    for at, char in enumerate(text):
        reasons.add(refusal(text[:at] + ("b" if char == "a" else "a") + text[at + 1 :]))
    assert reasons == {"checksum", "truncated", "too-long", "version"}
    assert refusal(text[:50] + ("b" if text[50] == "a" else "a") + text[51:]) == "checksum"


def test_an_invitation_has_exactly_one_string_to_the_last_bit() -> None:
    for count in range(5):  # one of these leaves bits over in the last character
        text = encode(Invitation(b"p" * 32, b"j" * 32, b"s" * 32, 1, (Address("a" * (count + 1), 1),)))
        others = set("abcdefghijklmnopqrstuvwxyz234567") - {text[-1]}
        assert {refusal(text[:-1] + char) for char in others} == {"checksum"}


def test_every_missing_end_is_called_truncated() -> None:
    text = encode(INVITATION)
    assert {refusal(text[:size]) for size in range(len(text))} == {"truncated"}


def test_swapped_neighbours_are_refused() -> None:
    text = encode(INVITATION)
    for at in range(len(text) - 1):
        if text[at] != text[at + 1]:
            refusal(text[:at] + text[at + 1] + text[at] + text[at + 2 :])


def test_what_is_pasted_behind_it_is_refused() -> None:
    text = encode(INVITATION)
    assert refusal(text + " see you there") == "too-long"
    assert refusal(text + "!") == "characters"
    assert refusal("a" * 20_000) == "too-long"
    assert refusal("https://example.org/") == "characters"


def test_a_string_of_a_newer_program_says_so() -> None:
    assert refusal(framed([], version=2)) == "version"


BODY = [b"p" * 32, b"j" * 32, b"s" * 32, 1, ["192.0.2.7:1"], [["relay.example:1", b"r" * 32]]]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        7,
        *(
            [*BODY[:at], wrong, *BODY[at + 1 :]]
            for at in range(6)
            for wrong in (None, (7.5).hex(), b"short", True, -1, [1])
        ),
        [*BODY[:4], ["192.0.2.7:1"] * 9, []],
        [*BODY[:4], ["EXAMPLE.org:1"], []],
        [*BODY[:4], ["192.0.2.7:01"], []],
        [*BODY[:4], ["192.0.2.7:1\n"], []],
        [*BODY[:4], [], [["relay.example:1", b"r" * 31]]],
        [*BODY, None],
    ],
)
def test_a_body_that_breaks_the_rules_is_refused_in_spite_of_its_checksum(body: object) -> None:
    assert decode(framed(BODY)).addresses == (Address("192.0.2.7", 1),)
    assert refusal(framed(body)) == "malformed"


@given(st.one_of(st.text(), st.text("abcdefghijklmnopqrstuvwxyz234567 \n"), st.binary().map(lambda b: framed(b.hex()))))
def test_any_text_is_an_invitation_or_refused(text: str) -> None:
    refusal(text)


@given(st.binary(max_size=200))
def test_any_bytes_behind_a_right_checksum_are_refused(body: bytes) -> None:
    data = b"\x01" + len(body).to_bytes(2, "big") + body
    assert (
        refusal(base64.b32encode(data + keys.hash_of(b"p2pnode string 1", data, 4)).decode().rstrip("=")) == "malformed"
    )


def test_the_longest_invitation_fits() -> None:
    name = Address(".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]), 65535)
    longest = Invitation(
        b"p" * 32, b"j" * 32, b"s" * 32, 2**53 - 1, (name,) * ADDRESSES_MAX, (Relay(name, b"r" * 32),) * ADDRESSES_MAX
    )
    text = encode(longest)
    assert len(text) < 8_192
    assert decode(text) == longest


def test_too_many_addresses_are_refused_by_name() -> None:
    for field in ("addresses", "relays"):
        crowd: dict[str, Any] = {field: (INVITATION.addresses[0],) * 9}
        invitation = Invitation(b"p" * 32, b"j" * 32, b"s" * 32, 1, **crowd)
        with pytest.raises(InputRefused, match="too-many"):
            encode(invitation)


def test_secrets_of_the_wrong_size_are_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        encode(Invitation(b"p" * 32, b"j" * 16, b"s" * 32, 1))


def test_secrets_do_not_show_when_an_invitation_is_printed() -> None:
    assert "jjj" not in repr(INVITATION)
    assert "sss" not in repr(INVITATION)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.7:4001", Address("192.0.2.7", 4001)),
        (" [2001:DB8:0::7]:1 ", Address("2001:db8::7", 1)),
        ("[::ffff:192.0.2.7]:1", Address("192.0.2.7", 1)),
        ("localhost:65535", Address("localhost", 65535)),
        ("Node-1.Example.:80", Address("node-1.example", 80)),
        ("_a.b_c.example:80", Address("_a.b_c.example", 80)),
        (f"{'a' * 56}.onion:80", Address("a" * 56 + ".onion", 80)),
    ],
)
def test_an_address_has_one_spelling(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed"),
        ("192.0.2.7", "malformed"),
        (":4001", "malformed"),
        ("2001:db8::7:4001", "malformed"),
        ("[2001:db8::7%eth0]:4001", "malformed"),
        ("[192.0.2.7]:4001", "malformed"),
        ("256.0.2.7:4001", "malformed"),
        ("192.0.2:4001", "malformed"),
        ("0x7f000001.1:4001", "malformed"),
        ("http://node:4001", "malformed"),
        ("user@node:4001", "malformed"),
        ("no de:4001", "malformed"),
        ("-node:4001", "malformed"),
        ("a..b:4001", "malformed"),
        (f"{'a' * 64}:4001", "malformed"),
        (f"{'a.' * 127}b:4001", "malformed"),
        ("ñandú.example:4001", "malformed"),
        ("node:", "port"),
        ("node:0", "port"),
        ("node:080", "port"),
        ("node:65536", "port"),
        ("node:+80", "port"),
        ("node:٨٠", "port"),
        ("0.0.0.0:4001", "unspecified"),
        ("[::]:4001", "unspecified"),
        ("224.0.0.251:5353", "unspecified"),
    ],
)
def test_an_address_that_cannot_be_dialled_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputRefused) as caught:
        parse_address(text)
    assert (caught.value.field, caught.value.reason) == ("address", reason)
