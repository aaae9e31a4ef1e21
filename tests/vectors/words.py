"""Cases about what is said: messages, payloads, invitations, beacons."""

import naive
from naive import AUTHOR, SEQ_MAX, SPACE, cbor, fixed

# message.json


def messages():
    key, other = sorted(b"\x02" + fixed(f"key {n}", 16) for n in range(2))
    id, digest = fixed("id"), fixed("digest")
    good = [
        ("RECONCILE_OPEN", 1, b"\x61\x00\x00\x02\x00"),
        ("RECONCILE", 2, b"\x61"),
        ("POSITION", 3, cbor([[key, 0, None, 0], [other, 7, id, 1]])),
        ("SAME", 4, cbor([key])),
        ("DECLINE", 5, cbor([key, other])),
        ("END", 6, cbor([other])),
        ("PROBE", 7, cbor([key, 7, id])),
        ("PROBE, not held", 7, cbor([key, SEQ_MAX, None])),
        ("WANT", 8, cbor([key, 1, 64])),
        ("TOTALS", 11, cbor([100_000])),
        ("DIGEST, question", 12, cbor([digest, True])),
        ("DIGEST, answer", 12, cbor([digest, False])),
        ("REKEY", 13, b""),
        ("WELCOME", 14, cbor([fixed("epoch 1"), fixed("epoch 2")])),
        ("JOINED", 15, b""),
        ("CLOSE", 16, b""),
    ]
    bad = [
        ("type 0", b"\x00\x00\x00\x00"),
        ("type 17", naive.frame(17, b"")),
        ("length without a body", b"\x04\x00\x00\x01"),
        ("header of three bytes", b"\x10\x00\x00"),
        ("no positions", naive.frame(3, cbor([]))),
        ("513 keys", naive.frame(4, cbor([b"\0" + fixed(str(n), 16) for n in range(513)]))),
        ("no keys", naive.frame(6, cbor([]))),
        ("key of 18 bytes", naive.frame(5, cbor([key + b"\0"]))),
        ("key as text", naive.frame(4, cbor(["x" * 17]))),
        ("probe at seq 0", naive.frame(7, cbor([key, 0, None]))),
        ("probe with an id of 31 bytes", naive.frame(7, cbor([key, 1, id[:31]]))),
        ("want backwards", naive.frame(8, cbor([key, 2, 1]))),
        ("want from 0", naive.frame(8, cbor([key, 0, 1]))),
        ("want beyond 2^32 - 1", naive.frame(8, cbor([key, 1, 2**32]))),
        ("totals negative", naive.frame(11, cbor([-1]))),
        ("totals over 2^53", naive.frame(11, cbor([2**53 + 1]))),
        ("digest of 31 bytes", naive.frame(12, cbor([digest[:31], True]))),
        ("question 1", naive.frame(12, cbor([digest, 1]))),
        ("rekey with a body", naive.frame(13, b"\xf6")),
        ("no epochs", naive.frame(14, cbor([]))),
        ("17 epochs", naive.frame(14, cbor([id] * 17))),
        ("epoch secret of 31 bytes", naive.frame(14, cbor([id[:31]]))),
        ("joined with a body", naive.frame(15, b"\x80")),
        ("close with a body", naive.frame(16, b"\x00")),
        ("bytes behind the value", naive.frame(4, cbor([key]) + b"\0")),
        ("a number longer than needed", naive.frame(11, b"\x81\x18\x01")),
    ]
    return {
        "valid": [{"name": name, "frame": naive.frame(kind, body)} for name, kind, body in good],
        "invalid": [{"reason": reason, "content": data} for reason, data in bad],
    }


# payload.json


def payloads():
    salt, admission_seed = fixed("payload salt", 16), fixed("admission seed")
    admission = naive.public(admission_seed)
    bound = naive.bound(SPACE, AUTHOR)
    founding = {
        "v": 1, "space": "Vecinos", "name": "Fundadora", "policy": {"invite": False},
        "epoch": naive.blake(b"p2pnode epoch 1", fixed("epoch secret")),
    }  # fmt: skip
    invite = {
        "v": 1, "key": admission, "role": 1, "expires": 1_795_086_400, "join": fixed("join secret"), "voice": True,
        "proof": naive.sign(admission_seed, b"p2pnode invite 1", bound),
    }  # fmt: skip
    claim = {"v": 1, "key": admission, "name": "Ñandú", "proof": naive.sign(admission_seed, b"p2pnode claim 1", bound)}
    grant = {"v": 1, "key": admission, "author": AUTHOR}
    report = {
        "v": 1, "cat": "roadblock", "title": "Bloqueo en el puente", "text": "Dos camiones atravesados.",
        "tags": ["puente", "norte"], "when": [1_795_000_000, 900], "cell": "d2g6f", "place": "Puente Viejo",
        "basis": "saw", "sev": 2, "state": "ongoing", "lang": "es", "rel": [["updates", fixed("entry")]],
        "ttl": 86_400,
    }  # fmt: skip
    short = {"v": 1, "cat": "all-clear", "title": "Todo tranquilo"}

    def without(fields, key):
        return {name: value for name, value in fields.items() if name != key}

    good = [
        ("founding", 0, founding),
        ("founding with a recovery key", 0, founding | {"recovery": fixed("recovery"), "policy": {"invite": True}}),
        ("invite", 1, invite),
        ("invite without join secret, reports only", 1, without(invite, "join") | {"voice": False}),
        ("claim", 2, claim),
        ("grant", 3, grant),
        ("report with every key", 64, report),
        ("shortest report", 64, short),
        ("report with a key of a later version", 64, short | {"media": [1]}),
        ("report with words of a later version", 64, short | {"cat": "flood", "basis": "drone", "state": "spreading"}),
    ]
    bad = [
        ("founding without epoch", 0, without(founding, "epoch")),
        ("founding with a name of 81 bytes", 0, founding | {"name": "x" * 81}),
        ("founding of version 2", 0, founding | {"v": 2}),
        ("invite for a curator", 1, invite | {"role": 3}),
        ("invite with a join secret of 31 bytes", 1, invite | {"join": fixed("j", 31)}),
        ("invite without proof", 1, without(invite, "proof")),
        ("claim with an empty name", 2, claim | {"name": ""}),
        ("claim with a proof of 63 bytes", 2, claim | {"proof": claim["proof"][:63]}),
        ("grant without author", 3, without(grant, "author")),
        ("report of version true", 64, short | {"v": True}),
        ("report without category", 64, without(short, "cat")),
        ("category that is no slug", 64, short | {"cat": "All Clear"}),
        ("title of 201 bytes", 64, short | {"title": "x" * 201}),
        ("empty title", 64, short | {"title": ""}),
        ("text of 8,193 bytes", 64, short | {"text": "x" * 8193}),
        ("17 tags", 64, short | {"tags": [str(n) for n in range(17)]}),
        ("a tag twice", 64, short | {"tags": ["a", "a"]}),
        ("no tags, said aloud", 64, short | {"tags": []}),
        ("tag of 81 bytes", 64, short | {"tags": ["x" * 81]}),
        ("window that ends after the year 9999", 64, short | {"when": [253_402_300_799, 1]}),
        ("window longer than 366 days", 64, short | {"when": [0, 366 * 86_400 + 1]}),
        ("cell of 8 characters", 64, short | {"cell": "d2g6fd2g"}),
        ("cell of 2 characters", 64, short | {"cell": "d2"}),
        ("cell with a letter that geohash has not", 64, short | {"cell": "d2a"}),
        ("severity 4", 64, short | {"sev": 4}),
        ("language of 36 characters", 64, short | {"lang": "es-" + "a" * 33}),
        ("nine relations", 64, short | {"rel": [["updates", fixed("entry")]] * 9}),
        ("relation to an id of 31 bytes", 64, short | {"rel": [["updates", fixed("entry", 31)]]}),
        ("time to live 0", 64, short | {"ttl": 0}),
        ("an array", 64, []),
    ]
    return {
        "space": SPACE,
        "author": AUTHOR,
        "admission_seed": admission_seed,
        "valid": [{"name": name, "kind": kind, "payload": salt + cbor(fields)} for name, kind, fields in good],
        "invalid": [
            *({"reason": reason, "kind": kind, "payload": salt + cbor(fields)} for reason, kind, fields in bad),
            {"reason": "no salt", "kind": 64, "payload": b""},
            {"reason": "salt cut short", "kind": 64, "payload": salt[:15]},
            {"reason": "keys out of order", "kind": 64, "payload": salt + b"\xa3" + b"".join(
                cbor(key) + cbor(short[key]) for key in ("v", "title", "cat"))},
            {"reason": "a key twice", "kind": 64, "payload": salt + b"\xa4" + b"".join(
                cbor(key) + cbor(short[key]) for key in ("v", "cat", "cat", "title"))},
        ],
    }  # fmt: skip


# invitation.json and beacon.json


def invitations():
    held = [SPACE, fixed("join secret"), fixed("admission seed"), 1_795_086_400]
    relay = ["relay.example:443", fixed("relay key")]
    text = naive.invitation(*held, ["192.0.2.7:4242", "[2001:db8::7]:4242"], [relay])
    framed = b"\x01\x00\x05hello"
    long = cbor([*held, ["192.0.2.7:4242"] * 9, []])
    bad = [
        ("truncated", "end missing", text[:-9]),
        ("too-long", "something behind it", text + text[:8]),
        ("characters", "a character that base32 has not", text[:-1] + "1"),
        ("checksum", "a character changed", text[:40] + ("a" if text[40] != "a" else "b") + text[41:]),
        ("version", "version 2", naive.invitation(*held, [], [], version=2)),
        ("malformed", "body that is no CBOR", naive.invitation_of(framed)),
        ("malformed", "nine addresses", naive.invitation_of(b"\x01" + len(long).to_bytes(2, "big") + long)),
        ("malformed", "address in another spelling", naive.invitation(*held, ["EXAMPLE.org:80"], [])),
        ("malformed", "address without a port", naive.invitation(*held, ["example.org"], [])),
        ("malformed", "relay key of 31 bytes", naive.invitation(*held, [], [["relay.example:443", bytes(31)]])),
        ("malformed", "space of 31 bytes", naive.invitation(SPACE[:31], *held[1:], [], [])),
    ]
    return {
        "space": held[0], "join_secret": held[1], "admission_seed": held[2], "expires_s": held[3],
        "valid": [
            {"addresses": [], "relays": [], "text": naive.invitation(*held, [], [])},
            {"addresses": ["192.0.2.7:4242", "[2001:db8::7]:4242"], "relays": [relay], "text": text},
        ],
        "invalid": [{"slug": slug, "reason": reason, "text": broken} for slug, reason, broken in bad],
    }  # fmt: skip


def beacons():
    instance, port, hour = "h5ynbxkp2q", 40_123, 498_611
    keys = [fixed("lan key 1"), fixed("lan key 2")]
    made = [naive.slot(key, hour, port, instance) for key in keys]
    rest = [fixed(f"slot {n}", 16) for n in range(6)]
    lan = [naive.blake(b"p2pnode lan 1", b"", key=fixed(f"epoch {n}")) for n in (1, 2)]
    return {
        "instance": instance,
        "port": port,
        "hour": hour,
        "keys": keys,
        "slots": made,
        "random": rest,
        "record": b"".join(sorted(made + rest)),
        "key_of_epoch": [{"epoch_secret": fixed(f"epoch {n}"), "key": key} for n, key in zip((1, 2), lan, strict=True)],
    }
