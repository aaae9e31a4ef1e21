"""Cases about the channel: masked handshakes and records."""

import naive
from naive import SPACE, cbor, fixed

# handshake.json

TIME_S = 1_795_000_000
WEEK = TIME_S // naive.WEEK_SECONDS
BODY_MAX = 52  # [16 bytes, 32 bytes]


def hands(name, mode=0, week=WEEK, **changes):
    """Both ends of the handshake with this name, and what they hold."""
    held = {"secret": fixed(name + " secret"), "space": SPACE, "salt": fixed(name + " salt", 16)}
    for end in ("initiator", "responder"):
        held[end + " static"] = fixed(f"{name} {end} static")
        held[end + " ephemeral"] = fixed(f"{name} {end} ephemeral")
    held |= changes
    both = naive.Handshake(
        held["secret"], mode, held["space"], week, held["salt"],
        held["initiator static"], held["initiator ephemeral"], held["responder static"], held["responder ephemeral"],
    )  # fmt: skip
    return both, held


def end_of(name, held, end, digest):
    return {
        "static_secret": held[end + " static"], "static_public": naive.dh_public(held[end + " static"]),
        "ephemeral_secret": held[end + " ephemeral"], "start_nonce": fixed(f"{name} {end} nonce", 16),
        "digest": digest,
    }  # fmt: skip


def handshake(name, mode, digests, fill_sizes, week=WEEK):
    both, held = hands(name, mode, week)
    ends = [end_of(name, held, end, digest) for end, digest in zip(("initiator", "responder"), digests, strict=True)]
    bodies = [cbor([]), *(cbor([end["start_nonce"], end["digest"]]) for end in reversed(ends))]
    fills = [
        fixed(f"{name} fill {n}", size + (BODY_MAX - len(body) if n else 0))
        for n, (size, body) in enumerate(zip(fill_sizes, bodies, strict=True))
    ]
    payloads = [naive.filled(body, fill) for body, fill in zip(bodies, fills, strict=True)]
    messages = [both.first(payloads[0]), both.second(payloads[1]), both.third(payloads[2])]
    sends = both.split()
    return {
        "name": name, "space": SPACE, "mode": mode, "secret": held["secret"], "time_s": week * naive.WEEK_SECONDS + 7,
        "week": week, "prologue": cbor([1, mode, SPACE]), "psk": both.psk, "mask_key": both.mask_key,
        "salt": held["salt"], "pads": [both.pads[n] for n in (1, 2, 3)],
        "initiator": ends[0], "responder": ends[1], "payloads": payloads,
        "fills": fills, "messages": messages, "replay_tag": both.replay_tag, "handshake_hash": both.h,
        "initiator_sends_key": sends[0], "responder_sends_key": sends[1],
        "first_records": [naive.Sender(key).record(b"hello") for key in sends],
    }  # fmt: skip


def handshakes():
    digest = fixed("digest")
    good = [
        handshake("member", 0, [digest, digest], [0, 0, 0]),
        handshake("join", 1, [None, None], [255, 255, 255]),
        handshake("rekey", 2, [None, digest], [1, 2, 3]),
        handshake("one digest", 0, [digest, None], [10, 100, 200], week=0),
    ]
    return {
        "valid": good,
        "invalid": [*strangers(), *broken_answers(good[0]), *broken_ends(good[0])],
    }


def strangers():
    """First messages that the responder of the handshake `member` does not answer."""
    plain_payload = naive.filled(cbor([]), fixed("fill", 9))

    def first(payload=plain_payload, e=None, **changes):
        return hands("member", **changes)[0].first(payload, e)

    def relabelled(length):
        both, _ = hands("member")
        message = both.first(plain_payload)
        size = xor16(both.pads[1], length)
        return message[:16] + size + message[18:]

    good = first()
    cases = [
        ("another secret", first(secret=fixed("another"))),
        ("another space", first(space=fixed("another"))),
        ("another mode", first(mode=1)),
        ("two weeks early", first(week=WEEK - 2)),
        ("two weeks late", first(week=WEEK + 2)),
        ("without a mask", b"".join([good[:16], naive.xor(good[16:50], hands("member")[0].pads[1]), good[50:]])),
        ("length 50: no body fits", relabelled(50)),
        ("length 481", relabelled(481)),
        ("a byte behind it", good + b"\0"),
        ("body not an empty array", first(naive.filled(cbor([0]), fixed("fill", 9)))),
        ("body a map", first(naive.filled(cbor({}), fixed("fill", 9)))),
        ("body longer than the payload", first((60).to_bytes(2, "big") + b"\x80" + fixed("fill", 9))),
        ("one bit of the ciphertext flipped", good[:-1] + bytes([good[-1] ^ 1])),
        ("one bit of the ephemeral key flipped", good[:20] + bytes([good[20] ^ 1]) + good[21:]),
        ("one bit of the salt flipped", bytes([good[0] ^ 1]) + good[1:]),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(64)),
        ("ephemeral key of small order", first(e=bytes(32))),
    ]
    return [{"reason": reason, "of": "member", "message": 1, "bytes": data} for reason, data in cases]


def xor16(pad, number):
    return naive.xor(number.to_bytes(2, "big"), pad[:2])


def broken_bodies(case, end, other):
    """Bodies that neither the second nor the third message may have; `end` wrote it, `other` reads it."""
    nonce, digest = case[end]["start_nonce"], fixed("digest")
    bodies = [
        ("start nonce of 15 bytes", cbor([nonce[:15], digest])),
        ("start nonce as text", cbor(["x" * 16, digest])),
        ("digest of 31 bytes", cbor([nonce, digest[:31]])),
        ("digest false", cbor([nonce, False])),
        ("no digest field", cbor([nonce])),
        ("a third field", cbor([nonce, None, None])),
        ("a map", cbor({})),
        ("bytes behind the array", cbor([nonce, digest]) + b"\0"),
        ("the reader's own start nonce", cbor([case[other]["start_nonce"], digest])),
    ]
    return [(reason, naive.filled(body, bytes(BODY_MAX))) for reason, body in bodies]


def broken_answers(case):
    """Second messages that the initiator of `case` refuses."""

    def second(payload, **changes):
        both, _ = hands("member", **changes)
        both.first(case["payloads"][0])
        return both.second(payload)

    cases = [(reason, second(payload)) for reason, payload in broken_bodies(case, "responder", "initiator")]
    good, theirs = case["messages"][1], fixed("member initiator static")
    cases += [
        ("the reader's own static key", second(case["payloads"][1], **{"responder static": theirs})),
        ("first message reflected", case["messages"][0][16:]),
        ("a byte behind it", good + b"\0"),
        ("one bit of the static key flipped", good[:40] + bytes([good[40] ^ 1]) + good[41:]),
        ("payload not authentic", good[:-1] + bytes([good[-1] ^ 0x80])),
    ]
    return [{"reason": reason, "of": "member", "message": 2, "bytes": data} for reason, data in cases]


def broken_ends(case):
    """Third messages that the responder of `case` refuses."""

    def third(payload, **changes):
        both, _ = hands("member", **changes)
        both.first(case["payloads"][0])
        both.second(case["payloads"][1])
        return both.third(payload)

    cases = [(reason, third(payload)) for reason, payload in broken_bodies(case, "initiator", "responder")]
    good, theirs = case["messages"][2], fixed("member responder static")
    cases += [
        ("the reader's own static key", third(case["payloads"][2], **{"initiator static": theirs})),
        ("one bit of the static key flipped", good[:10] + bytes([good[10] ^ 1]) + good[11:]),
        ("payload not authentic", good[:-1] + bytes([good[-1] ^ 0x80])),
    ]
    return [{"reason": reason, "of": "member", "message": 3, "bytes": data} for reason, data in cases]


# record.json


def records():
    key = fixed("record key")
    contents = [b"", b"hello", fixed("a", 254), fixed("b", 255), fixed("c", 2000)]
    sender = naive.Sender(key)
    stream = [sender.record(content) for content in contents]
    sender.rekey()
    after = naive.Sender(sender.key)
    after.number = sender.number  # the nonce goes on

    def raw(body, length=None):
        return naive.Sender(key).raw(body, length)

    one, two = stream[0], naive.Sender(key)
    two.seal(b""), two.seal(b"")
    bad = [
        ("count over the body", raw(b"\x00\xff" + bytes(254))),
        ("body larger than its content needs", raw(b"\x00\x05hello" + bytes(272 - 7))),
        ("body smaller than the floor", raw(b"\x00\x05hello" + bytes(128 - 7))),
        ("first byte of the padding not zero", raw(b"\x00\x05hello\x01" + bytes(248))),
        ("last byte of the padding not zero", raw(b"\x00\x05hello" + bytes(248) + b"\x01")),
        ("size that Padmé does not give", raw(b"\x00\x05hello" + bytes(250))),
        ("length 0", raw(b"")),
        ("length 65,535", raw(bytes(256), 65_535)),
        ("length of the next larger size", raw(b"\x00\x05hello" + bytes(249), 272) + bytes(16)),
        ("body not authentic", one[:-1] + bytes([one[-1] ^ 1])),
        ("length not authentic", bytes([one[0] ^ 1]) + one[1:]),
        ("the second record first", stream[1]),
        ("the first record twice", one + one),
        ("length and body under one nonce", naive.seal(key, 0, b"\x01\x00") + naive.seal(key, 0, bytes(256))),
    ]
    sizes = [0, 1, 254, 255, 270, 271, 510, 511, 1000, 4094, 8192, 16_384, 30_000, 60_000, 61_439, 63_486]
    return {
        "key": key,
        "valid": [{"content": content, "record": record} for content, record in zip(contents, stream, strict=True)],
        "after_rekey": {"key": after.key, "content": b"after", "record": after.record(b"after")},
        "sizes": [[size, naive.body_size(size)] for size in sizes],
        "invalid": [{"reason": reason, "stream": data} for reason, data in bad],
    }
