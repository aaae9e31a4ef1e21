"""Cases about logs: entries, and the runs in which they travel."""

import naive
from naive import AUTHOR, LAMPORT_MAX, LOG_ID, OTHER_SEED, SEED, SEQ_MAX, SPACE, TIME_MAX, cbor, fixed, payload_of

# entry.json


def entries():
    def valid(name, space, cls, seq, prev, lamport, time, kind, payload, refs):
        raw = naive.header(
            space, AUTHOR, LOG_ID, cls, seq, prev, lamport, time, kind, len(payload), naive.payload_hash(payload), refs
        )
        id = naive.entry_id(raw)
        return {
            "name": name, "space": space, "author": AUTHOR, "log_id": LOG_ID, "class": cls, "seq": seq, "prev": prev,
            "lamport": lamport, "time": time, "kind": kind, "refs": refs, "payload": payload, "author_seed": SEED,
            "payload_hash": naive.payload_hash(payload), "header": raw, "id": id,
            "log_key": naive.log_key(space or id, AUTHOR, cls, LOG_ID, founding=space is None),
            "signature": naive.sign(SEED, b"p2pnode entry 1", id),
        }  # fmt: skip

    refs = sorted(fixed(f"ref {n}") for n in range(4))
    prev = fixed("prev")
    good = [
        valid("founding entry", None, 0, 1, None, 1, 1_990_000, 0, payload_of("founding"), []),
        valid("first report", SPACE, 2, 1, None, 1, 1_990_000, 64, payload_of("first"), []),
        valid("later report", SPACE, 2, 2, prev, 7, 1_990_001, 64, payload_of("later"), []),
        valid("one ref", SPACE, 1, 300, prev, 70_000, 1_990_001, 65, payload_of("ref"), refs[:1]),
        valid("largest numbers", SPACE, 2, SEQ_MAX, prev, LAMPORT_MAX, TIME_MAX, 255, bytes(16_384), refs),
        valid("smallest numbers", SPACE, 0, 1, None, 1, 0, 1, b"", []),
        valid("unknown kind", SPACE, 1, 24, prev, 24, 24, 24, payload_of("unknown"), []),
        valid("kind 0 in a report log", SPACE, 2, 1, None, 1, 0, 0, payload_of("zero"), []),
    ]

    base = [1, SPACE, AUTHOR, LOG_ID, 2, 2, prev, 7, 1_990_000, 64, 40, fixed("hash"), []]
    names = ["version", "space", "author", "log_id", "class", "seq", "prev", "lamport", "time", "kind"]
    names += ["size", "hash", "refs"]

    def but(**changes):
        fields = list(base)
        for name, value in changes.items():
            fields[names.index(name)] = value
        return cbor(fields)

    raw = cbor(base)
    at_seq = raw.index(b"\x02\x02\x58\x20") + 1  # class 2, seq 2, prev
    assert raw[:1] == b"\x8d"
    bad = [
        ("version 2", but(version=2)),
        ("version true", but(version=True)),
        ("space absent, not founding", but(space=None)),
        ("space given in a founding entry", but(**{"class": 0}, seq=1, prev=None, kind=0)),
        ("founding entry in a voice log", but(**{"class": 1}, space=None, seq=1, prev=None, kind=0)),
        ("founding entry at seq 2", but(**{"class": 0}, space=None, kind=0)),
        ("space of 31 bytes", but(space=SPACE[:31])),
        ("space as text", but(space="x" * 32)),
        ("author of 33 bytes", but(author=AUTHOR + b"\0")),
        ("log id of 7 bytes", but(log_id=LOG_ID[:7])),
        ("class 3", but(**{"class": 3})),
        ("class true", but(**{"class": True})),
        ("class negative", but(**{"class": -1})),
        ("seq 0", but(seq=0, prev=None)),
        ("seq 0 with prev", but(seq=0)),
        ("seq 2^32", but(seq=2**32)),
        ("seq 2^64 - 1", but(seq=2**64 - 1)),
        ("seq true", but(seq=True, prev=None)),
        ("prev at seq 1", but(seq=1)),
        ("no prev at seq 2", but(prev=None)),
        ("prev of 31 bytes", but(prev=prev[:31])),
        ("lamport 0", but(lamport=0)),
        ("lamport 2^53", but(lamport=2**53)),
        ("time negative", but(time=-1)),
        ("time 2^32", but(time=2**32)),
        ("kind 256", but(kind=256)),
        ("kind null", but(kind=None)),
        ("payload of 16,385 bytes", but(size=16_385)),
        ("payload length negative", but(size=-1)),
        ("payload hash of 31 bytes", but(hash=fixed("hash", 31))),
        ("payload hash null", but(hash=None)),
        ("five refs", but(refs=sorted(fixed(f"ref {n}") for n in range(5)))),
        ("refs not in order", but(refs=refs[::-1])),
        ("a ref twice", but(refs=[refs[0], refs[0]])),
        ("ref of 31 bytes", but(refs=[refs[0][:31]])),
        ("refs null", but(refs=None)),
        ("refs a map", but(refs={})),
        ("twelve fields", cbor(base[:12])),
        ("fourteen fields", cbor([*base, 0])),
        ("a map", cbor(dict(zip(names, base, strict=True)))),
        ("bytes behind it", raw + b"\0"),
        ("cut short", raw[:-1]),
        ("nothing", b""),
        ("array of indefinite length", b"\x9f" + raw[1:] + b"\xff"),
        ("seq longer than needed", raw[:at_seq] + b"\x18\x02" + raw[at_seq + 1 :]),
        ("seq as a float", raw[:at_seq] + b"\xf9\x40\x00" + raw[at_seq + 1 :]),
        ("seq under a tag", raw[:at_seq] + b"\xc0\x02" + raw[at_seq + 1 :]),
        ("the whole under tag 55799", b"\xd9\xd9\xf7" + raw),
        ("class undefined", raw[: at_seq - 1] + b"\xf7" + raw[at_seq:]),
    ]

    id = good[1]["id"]
    right = naive.sign(SEED, b"p2pnode entry 1", id)
    s_plus_order = (int.from_bytes(right[32:], "little") + naive.ORDER).to_bytes(32, "little")
    neutral = b"\x01" + bytes(31)  # as a key it would let one signature stand for every message
    signatures = [
        ("over the header, not the id", AUTHOR, naive.sign(SEED, b"p2pnode entry 1", good[1]["header"])),
        ("without a purpose", AUTHOR, naive.sign(SEED, b"", id)),
        ("for a claim", AUTHOR, naive.sign(SEED, b"p2pnode claim 1", id)),
        ("for an invite", AUTHOR, naive.sign(SEED, b"p2pnode invite 1", id)),
        ("of somebody else", AUTHOR, naive.sign(OTHER_SEED, b"p2pnode entry 1", id)),
        ("for another entry", AUTHOR, good[2]["signature"]),
        ("s + group order", AUTHOR, right[:32] + s_plus_order),
        ("one bit flipped", AUTHOR, right[:-1] + bytes([right[-1] ^ 1])),
        ("of 63 bytes", AUTHOR, right[:-1]),
        ("key of small order", neutral, neutral + bytes(32)),
    ]
    return {
        "valid": good,
        "invalid": [{"reason": reason, "header": raw} for reason, raw in bad],
        "invalid_signatures": [
            {"reason": reason, "id": id, "author": author, "signature": signature}
            for reason, author, signature in signatures
        ],
    }


# run.json


def described(name, log, space, frames=None, same_frames=True):
    entries = log.entries
    return {
        "name": name, "space": space, "frames": frames or log.frames(), "author": naive.public(log.seed),
        "log_id": log.log_id, "class": log.cls, "first_seq": log.first, "prev": log.before,
        "log_key": naive.log_key(space, naive.public(log.seed), log.cls, log.log_id, founding=log.space is None),
        "ids": [e["id"] for e in entries], "headers": [e["header"] for e in entries],
        "payloads": [None if e["dropped"] else e["payload"] for e in entries],
        "our_frames": same_frames,
    }  # fmt: skip


def some_log(seq=0, prev=None, cls=2, space=SPACE):
    return naive.Log(space, SEED, LOG_ID, cls, seq, prev)


def plain(count, seq=0, prev=None, size=20):
    log = some_log(seq, prev)
    for n in range(count):
        log.add(payload_of(f"run {n}", size), lamport=seq + n + 1)
    return log


def runs():
    prev = fixed("prev")
    refs = sorted(fixed(f"ref {n}") for n in range(3))
    good = [described("one entry", plain(1), SPACE), described("three alike", plain(3, 4, prev), SPACE)]

    log = some_log(cls=0, space=None)
    founding = log.add(payload_of("founding"), 1, kind=0)
    good.append(described("founding entry", log, founding["id"]))

    log = some_log(9, prev, cls=1)
    for n, (lamport, time, kind) in enumerate([(100, 1_990_004, 65), (102, 1_990_001, 66), (2**40, 1_990_009, 200)]):
        log.add(payload_of(f"mixed {n}"), lamport, time, kind, refs=refs[:n])
    good.append(described("columns of many values", log, SPACE))

    good.append(described("across a checkpoint", plain(6, 61, prev), SPACE))

    log = plain(1, 4, prev)
    log.add(payload_of("big", 8193), 6)
    log.add(payload_of("small"), 7)
    good.append(described("payload over 8 KiB carries a signature", log, SPACE))

    log = plain(1, 4, prev)
    log.add(payload_of("dropped"), 6, dropped=True)
    log.add(payload_of("last"), 7)
    good.append(described("one payload absent", log, SPACE))

    log = some_log(4, prev)
    for n in range(2):
        log.add(payload_of(f"gone {n}"), 5 + n, dropped=True)
    good.append(described("no payload at hand", log, SPACE))

    log = plain(3, 4, prev)
    split = [log.frames()[0], *(naive.frame(10, cbor([payload])) for payload in log.payloads())]
    good.append(described("payloads cut into frames elsewhere", log, SPACE, split, same_frames=False))

    log = plain(2, 4, prev)
    columns = log.columns()
    columns[6:9] = [[5, 1], [1_990_000, 0], [64, 64]]
    written_out = [naive.frame(9, cbor(columns)), log.frames()[1]]
    good.append(described("columns written out although alike", log, SPACE, written_out, same_frames=False))

    log = plain(2, 4, prev)
    columns = log.columns()
    columns[9] = [item for n in (0, 1) for item in (n, log.entries[n]["signature"])]
    more_signed = [naive.frame(9, cbor(columns)), log.frames()[1]]
    good.append(described("more signatures than needed", log, SPACE, more_signed, same_frames=False))

    return {"valid": good, "invalid": [*broken_columns(), *broken_frames(), *broken_signatures()]}


NAMES = ["author", "log_id", "class", "first_seq", "prev", "count", "lamports", "times", "kinds"]
NAMES += ["signatures", "refs", "lacks"]


def changed(log, **changes):
    columns = log.columns()
    for name, value in changes.items():
        columns[NAMES.index(name)] = value
    return [naive.frame(9, cbor(columns)), *log.frames()[1:]]


def broken_columns():
    prev = fixed("prev")
    log = plain(3, 4, prev)
    last = log.entries[2]["signature"]
    unsigned_checkpoint = changed(plain(3, 62, prev), signatures=[2, plain(3, 62, prev).entries[2]["signature"]])
    big = plain(1, 4, prev)
    big.add(payload_of("big", 8193), 6)
    big.add(payload_of("small"), 7)
    lacking = plain(2, 4, prev)
    lacking.add(payload_of("gone"), 7, dropped=True)
    first = plain(1)
    ref = fixed("ref")
    cases = [
        ("eleven columns", [naive.frame(9, cbor(log.columns()[:11])), log.frames()[1]]),
        ("thirteen columns", [naive.frame(9, cbor([*log.columns(), []])), log.frames()[1]]),
        ("author of 31 bytes", changed(log, author=AUTHOR[:31])),
        ("log id of 9 bytes", changed(log, log_id=LOG_ID + b"\0")),
        ("class 3", changed(log, **{"class": 3})),
        ("class false", changed(first, **{"class": False}, kinds=0)),
        ("first seq 0", changed(log, first_seq=0)),
        ("last seq over 2^32 - 1", changed(log, first_seq=SEQ_MAX - 1)),
        ("prev at seq 1", changed(first, prev=prev)),
        ("no prev at seq 5", changed(log, prev=None)),
        ("count 0", changed(log, count=0, signatures=[])),
        ("count 1,025", changed(log, count=1025)),
        ("count below the payloads'", changed(log, count=2, signatures=[1, last])),
        ("lamports fewer than entries", changed(log, lamports=[5, 1])),
        ("lamport stands still", changed(log, lamports=[5, 0, 1])),
        ("lamport falls", changed(log, lamports=[5, 1, -1])),
        ("lamport 0", changed(log, lamports=0)),
        ("lamport over 2^53 - 1", changed(log, lamports=LAMPORT_MAX - 1)),
        ("lamport true", changed(log, lamports=True)),
        ("time below 0", changed(log, times=[1, -2, 2])),
        ("time over 2^32 - 1", changed(log, times=[TIME_MAX, 1, 0])),
        ("kind 256", changed(log, kinds=[64, 256, 64])),
        ("kinds more than entries", changed(log, kinds=[64] * 4)),
        ("founding kind in a membership log of a space", changed(plain(2, 4, prev), **{"class": 0}, kinds=[1, 0])),
        ("a founding log with two entries", changed(plain(2), **{"class": 0}, kinds=0)),
        ("founding entry of another space", changed(plain(1), **{"class": 0}, kinds=0)),
        ("last entry without signature", changed(log, signatures=[])),
        ("entry 64 without signature", unsigned_checkpoint),
        ("payload over 8 KiB without signature", changed(big, signatures=[2, big.entries[2]["signature"]])),
        ("signature of 63 bytes", changed(log, signatures=[2, last[:63]])),
        ("signature of no entry", changed(log, signatures=[2, last, 3, last])),
        ("signatures out of order", changed(log, signatures=[2, last, 0, last])),
        ("signatures in half a pair", changed(log, signatures=[2, last, 3])),
        ("refs of an entry empty", changed(log, refs=[0, []])),
        ("five refs", changed(log, refs=[0, sorted(fixed(f"ref {n}") for n in range(5))])),
        ("ref twice", changed(log, refs=[0, [ref, ref]])),
        ("refs of no entry", changed(log, refs=[3, [ref]])),
        ("length and hash of a payload that comes", changed(log, lacks=[0, 20, fixed("hash")])),
        ("length 16,385 of an absent payload", changed(lacking, lacks=[2, 16_385, fixed("hash")])),
        ("hash of 31 bytes of an absent payload", changed(lacking, lacks=[2, 40, fixed("hash", 31)])),
        ("absent payload of no entry", changed(lacking, lacks=[3, 40, fixed("hash")])),
        ("absent payloads out of order", changed(lacking, lacks=[2, 40, fixed("hash"), 1, 40, fixed("hash")])),
    ]
    return [{"reason": reason, "space": SPACE, "frames": frames, "at": "columns"} for reason, frames in cases]


def broken_frames():
    log = plain(3, 4, fixed("prev"))
    head, payloads = log.frames()
    too_long = some_log()
    too_long.add(payload_of("long", 16_385), 1)
    cases = [
        ("header part not an array", [naive.frame(9, cbor({}))]),
        ("header part followed by bytes", [naive.frame(9, cbor(log.columns()) + b"\0"), payloads]),
        ("payload too many", [head, naive.frame(10, cbor([*log.payloads(), b""]))]),
        ("payload as text", [head, naive.frame(10, cbor(["x", b"", b""]))]),
        ("empty frame of payloads", [head, naive.frame(10, cbor([])), payloads]),
        ("payloads not an array", [head, naive.frame(10, cbor(b""))]),
        ("payload of 16,385 bytes", too_long.frames()),
    ]
    return [{"reason": reason, "space": SPACE, "frames": frames, "at": "columns"} for reason, frames in cases]


def broken_signatures():
    log = plain(3, 4, fixed("prev"))
    head = log.frames()[0]
    last = log.entries[2]["signature"]
    other = [payload_of("another", 20), *log.payloads()[1:]]
    cases = [
        ("a payload changed", [head, naive.frame(10, cbor(other))]),
        ("two payloads swapped", [head, naive.frame(10, cbor(log.payloads()[::-1]))]),
        ("time changed", changed(log, times=1_990_001)),
        ("kind changed", changed(log, kinds=65)),
        ("lamports changed", changed(log, lamports=6)),
        ("prev changed", changed(log, prev=fixed("another"))),
        ("first seq changed", changed(log, first_seq=6)),
        ("class changed", changed(log, **{"class": 1})),
        ("log id changed", changed(log, log_id=fixed("another", 8))),
        ("author changed", changed(log, author=naive.public(OTHER_SEED))),
        ("refs added", changed(log, refs=[1, [fixed("ref")]])),
        ("a signature that need not be there is wrong", changed(log, signatures=[0, last, 2, last])),
        ("signature of another purpose", changed(log, signatures=[2, naive.sign(SEED, b"", log.entries[2]["id"])])),
    ]
    broken = [{"reason": reason, "space": SPACE, "frames": frames, "at": "signature"} for reason, frames in cases]
    return [*broken, {"reason": "space changed", "space": fixed("another"), "frames": log.frames(), "at": "signature"}]
