"""Cases about what is left for others: bundles, mailboxes, and the relays that keep them."""

import naive
from naive import AUTHOR, LOG_ID, OTHER_SEED, SEED, SPACE, cbor, fixed, frame, payload_of

# bundle.json

HEAD = frame(32, cbor([1, 3]))


def run_of(count, size=40, log_id=LOG_ID):
    log = naive.Log(SPACE, SEED, log_id, 2)
    for n in range(count):
        log.add(payload_of(f"{log_id.hex()} {n}", size), n + 1)
    return log


def long_frames():
    """Three runs of 64 payloads, each as long as one may be: three of them fit a frame, and one frame a chunk."""
    frames = []
    for n in range(3):
        log = run_of(64, 16_384, fixed(f"log {n}", 8))
        payloads = log.payloads()
        parts = [payloads[at : at + 3] for at in range(0, len(payloads), 3)]
        frames += [frame(9, cbor(log.columns())), *(frame(10, cbor(part)) for part in parts)]
    return frames


def bundle(name, frames, secret=None):
    secret, salt = secret or fixed("epoch secret"), fixed(name + " salt", 24)
    key = naive.bundle_key(secret)
    return {
        "name": name, "secret": secret, "salt": salt, "key": key, "header": naive.segment_header(key, salt, 0),
        "frames": frames, "bundle": naive.bundle(secret, salt, frames),
    }  # fmt: skip


def bundles():
    run = run_of(3)
    key = naive.log_key(SPACE, AUTHOR, 2, LOG_ID)
    position = frame(3, cbor([[key, 3, run.entries[-1]["id"], 0]]))
    seen = frame(33, cbor([7, fixed("running hash")]))
    welcome = frame(14, cbor([fixed("epoch 1"), fixed("epoch 2")]))
    full = 4096 - 24 - naive.OVERHEAD
    later = [frame(34, b"a package of a later version"), frame(0, b"\x01"), frame(255, b"")]
    good = [
        bundle("nothing in it", []),
        bundle("a file", [HEAD, position, *run.frames()]),
        bundle("a message of a mailbox", [seen, *run.frames()]),
        bundle("a welcome", [welcome, *run.frames()], fixed("join secret")),
        bundle("frames of a later version", [HEAD, *later, *run.frames()]),
        bundle("full to the last byte", [frame(99, fixed("x", full - 4))]),
        bundle("one byte more", [frame(99, fixed("x", full - 3))]),
    ]
    bad = [
        ("head of version 2", 32, cbor([2, 3])),
        ("head of version true", 32, cbor([True, 3])),
        ("head with a negative count", 32, cbor([1, -1])),
        ("head without a count", 32, cbor([1])),
        ("seen at a negative number", 33, cbor([-1, fixed("hash")])),
        ("seen with a hash of 31 bytes", 33, cbor([1, fixed("hash", 31)])),
        ("seen beyond 2^53", 33, cbor([2**53 + 1, fixed("hash")])),
        ("no positions", 3, cbor([])),
        ("position of class 3", 3, cbor([[b"\x03" + key[1:], 3, fixed("id"), 0]])),
        ("no epochs", 14, cbor([])),
        ("run of two columns", 9, cbor([AUTHOR, LOG_ID])),
        ("a number longer than needed", 32, b"\x82\x18\x01\x03"),
        ("bytes behind the value", 33, cbor([7, fixed("hash")]) + b"\0"),
    ]
    salt, frames = fixed("long salt", 24), long_frames()
    long = naive.bundle(fixed("epoch secret"), salt, frames)
    segment_key = naive.bundle_key(fixed("epoch secret"))
    second = 24 + 64 * naive.CHUNK
    sizes = [(0, 0), (0, 4055), (0, 4056), (0, 10_000), (0, 65_519), (1, 1), (1, 65_519), (15, 60_000), (70, 0)]
    return {
        "space": SPACE,
        "valid": good,
        "sizes": [[full, last, naive.bundle_size(full, last)] for full, last in sizes],
        "headers": [
            {"salt": salt, "key": segment_key, "number": n, "header": naive.segment_header(segment_key, salt, n)}
            for n in (0, 1, 2**32 - 1)
        ],
        "long": {
            "secret": fixed("epoch secret"), "salt": salt, "size": len(long),
            "frames": len(frames), "runs": [naive.blake(b"", b"".join(frames[at : at + 23])) for at in (0, 23, 46)],
            "segments": [naive.blake(b"", long[24:second]), naive.blake(b"", long[second:])],
        },
        "invalid": [{"reason": reason, "content": frame(kind, body)} for reason, kind, body in bad]
        + [{"reason": "frame longer than its chunk", "content": b"\x20\xff\xff\xff" + bytes(3) + b"\x01"}],
    }  # fmt: skip


# mailbox.json


def mailboxes():
    secret, join_secret = fixed("epoch secret"), fixed("join secret")
    relays = [naive.dh_public(fixed(f"relay {n}")) for n in (1, 2)]
    topics = [(relay, week) for relay in relays for week in (2967, 2968, 0, -1)]
    seed = naive.topic_seed(secret, relays[0], 2967)
    topic, message = naive.public(seed), fixed("message", 4096)
    bound = naive.append_bound(topic, message)
    signature, other = naive.sign(seed, b"p2pnode append 1", bound), naive.public(OTHER_SEED)
    order = (int.from_bytes(signature[32:], "little") + naive.ORDER).to_bytes(32, "little")
    cursors, running = [], bytes(32)
    for number in range(1, 4):
        one = fixed(f"message {number}", 100 * number)
        running = naive.chained(running, one)
        cursors.append({"message": one, "hash": naive.message_hash(one), "number": number, "running": running})
    bad = [
        ("of another message", topic, naive.message_hash(message + b"\0"), signature),
        ("of another topic", other, naive.message_hash(message), signature),
        ("by another topic", topic, naive.message_hash(message), naive.sign(OTHER_SEED, b"p2pnode append 1", bound)),
        ("of an entry", topic, naive.message_hash(message), naive.sign(seed, b"p2pnode entry 1", bound)),
        ("over the message alone", topic, naive.message_hash(message),
         naive.sign(seed, b"p2pnode append 1", naive.message_hash(message))),
        ("of 63 bytes", topic, naive.message_hash(message), signature[:63]),
        ("one bit flipped", topic, naive.message_hash(message), bytes([signature[0] ^ 1]) + signature[1:]),
        ("with S + L", topic, naive.message_hash(message), signature[:32] + order),
        ("under a topic of small order", bytes(32), naive.message_hash(message), bytes(64)),
        ("under a topic of 31 bytes", topic[:31], naive.message_hash(message), signature),
    ]  # fmt: skip
    return {
        "secret": secret,
        "join_secret": join_secret,
        "valid": [
            {"name": f"relay {relays.index(relay) + 1}, week {week}", "relay": relay, "week": week,
             "seed": naive.topic_seed(secret, relay, week),
             "topic": naive.public(naive.topic_seed(secret, relay, week))}
            for relay, week in topics
        ],
        "welcomes": [
            {"relay": relay, "seed": naive.welcome_seed(join_secret, relay),
             "topic": naive.public(naive.welcome_seed(join_secret, relay))}
            for relay in relays
        ],
        "tokens": [
            {"relay": relay, "hour": hour, "lane": lane, "token": naive.token(secret, relay, hour, lane)}
            for relay in relays for hour, lane in ((498_611, 0), (498_611, 15), (498_612, 0), (-1, 7))
        ],
        "times": [
            {"time_s": time_s, "week": time_s // naive.WEEK_SECONDS, "hour": time_s // 3600}
            for time_s in (1_795_000_000, 0, 3599, 604_799, 604_800, -1)
        ],
        "cursors": cursors,
        "append": {"topic": topic, "message": message, "bound": bound, "signature": signature},
        "invalid": [
            {"reason": reason, "topic": key, "hash": digest, "signature": signed} for reason, key, digest, signed in bad
        ],
    }  # fmt: skip


# relay.json

TIME_S = 1_795_000_000
WEEK = TIME_S // naive.WEEK_SECONDS
ANSWER_MAX = 52  # what the body of an answer is filled up to, whatever random bytes follow
RELAY = fixed("relay 1")


def hands(name="usual", week=WEEK, relay=RELAY, mode=3):
    return naive.RelayHandshake(
        relay,
        week,
        fixed(name + " salt", 16),
        fixed(name + " caller ephemeral"),
        fixed(name + " relay ephemeral"),
        mode,
    )


def handshake(name, terms, fill_sizes, week=WEEK):
    both, body = hands(name, week), cbor(terms)
    fills = [fixed(name + " fill 1", fill_sizes[0]), fixed(name + " fill 4", fill_sizes[1] + ANSWER_MAX - len(body))]
    payloads = [naive.filled(cbor([]), fills[0]), naive.filled(body, fills[1])]
    messages = [both.first(payloads[0]), both.answer(payloads[1])]
    sends = both.split()
    key = naive.dh_public(RELAY)
    return {
        "name": name, "relay_secret": RELAY, "relay_public": key, "time_s": week * naive.WEEK_SECONDS + 7, "week": week,
        "prologue": cbor([1, 3, key]), "mask_key": both.mask_key, "salt": both.salt,
        "pads": {str(n): both.pads[n] for n in (1, 4)}, "caller_ephemeral": both.c_ephemeral,
        "relay_ephemeral": both.r_ephemeral, "terms": terms, "fills": fills, "payloads": payloads,
        "messages": messages, "replay_tag": both.replay_tag, "handshake_hash": both.h,
        "caller_sends_key": sends[0], "relay_sends_key": sends[1],
        "first_records": [naive.Sender(one).record(b"hello") for one in sends],
    }  # fmt: skip


def broken_calls():
    """First messages that the relay does not answer."""
    plain = naive.filled(cbor([]), fixed("fill", 9))

    def first(payload=plain, e=None, **changes):
        return hands(**changes).first(payload, e)

    good, pads = first(), hands().pads
    members = naive.Handshake(
        naive.dh_public(RELAY), 0, SPACE, WEEK, fixed("salt", 16), *(fixed(f"key {n}") for n in range(4))
    )
    cases = [
        ("another relay", first(relay=fixed("another"))),
        ("mode member", first(mode=0)),
        ("a member's first message", members.first(plain)),
        ("two weeks early", first(week=WEEK - 2)),
        ("two weeks late", first(week=WEEK + 2)),
        ("without a mask", good[:16] + naive.xor(good[16:50], pads[1]) + good[50:]),
        ("length 50: no body fits", good[:16] + naive.xor((50).to_bytes(2, "big"), pads[1]) + good[18:]),
        ("length 481", good[:16] + naive.xor((481).to_bytes(2, "big"), pads[1]) + good[18:]),
        ("a byte behind it", good + b"\0"),
        ("body not an empty array", first(naive.filled(cbor([0]), fixed("fill", 9)))),
        ("body longer than the payload", first((60).to_bytes(2, "big") + b"\x80" + fixed("fill", 9))),
        ("one bit of the ciphertext flipped", good[:-1] + bytes([good[-1] ^ 1])),
        ("one bit of the ephemeral key flipped", good[:20] + bytes([good[20] ^ 1]) + good[21:]),
        ("one bit of the salt flipped", bytes([good[0] ^ 1]) + good[1:]),
        ("ephemeral key of small order", first(e=bytes(32))),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(64)),
    ]
    return [{"reason": reason, "message": 1, "bytes": data} for reason, data in cases]


def broken_answers():
    """Answers that the caller of the handshake `usual` refuses."""

    def answer(payload, e=None, **changes):
        both = hands(**changes)
        both.first(naive.filled(cbor([]), b""))
        return both.answer(payload, e)

    def of(body):
        return answer(naive.filled(body, bytes(ANSWER_MAX)))

    good = of(cbor([2**20, 30]))
    bodies = [
        ("messages of 0 bytes", cbor([0, 30])),
        ("messages of 1,048,577 bytes", cbor([2**20 + 1, 30])),
        ("kept for 0 days", cbor([2**20, 0])),
        ("kept for 367 days", cbor([2**20, 367])),
        ("days true", cbor([2**20, True])),
        ("one term", cbor([2**20])),
        ("three terms", cbor([2**20, 30, 0])),
        ("a map", cbor({})),
        ("bytes behind the array", cbor([2**20, 30]) + b"\0"),
    ]
    cases = [(reason, of(body)) for reason, body in bodies]
    cases += [
        ("another relay", answer(naive.filled(cbor([2**20, 30]), bytes(ANSWER_MAX)), relay=fixed("another"))),
        ("ephemeral key of small order", answer(naive.filled(cbor([2**20, 30]), bytes(ANSWER_MAX)), e=bytes(32))),
        ("first message reflected", hands().first(naive.filled(cbor([]), bytes(60)))[16:]),
        ("ephemeral key flipped", good[:9] + bytes([good[9] ^ 1]) + good[10:]),
        ("payload not authentic", good[:-1] + bytes([good[-1] ^ 0x80])),
        ("shorter than an answer can be", answer(naive.filled(cbor([2**20, 30]), bytes(ANSWER_MAX - 9)))),
    ]
    return [{"reason": reason, "message": 4, "bytes": data} for reason, data in cases]


def relay_frames():
    topic, signature, running = naive.public(SEED), fixed("signature", 64), fixed("running hash")
    good = [
        ("READ", 1, cbor([topic, 0, 0])),
        ("READ, waiting", 1, cbor([topic, 2**53, 240])),
        ("PAGE", 2, cbor([6, running, 3, 9, 3])),
        ("PAGE, nothing new", 2, cbor([9, running, 3, 9, 0])),
        ("PAGE, nothing kept", 2, cbor([9, running, 10, 9, 0])),
        ("PAGE, nothing ever", 2, cbor([0, bytes(32), 1, 0, 0])),
        ("MESSAGE", 3, cbor([4096])),
        ("PART", 4, b"any bytes"),
        ("APPEND", 5, cbor([topic, signature, 2**20, 366])),
        ("APPENDED", 6, cbor([1])),
        ("REFUSED", 7, cbor([1])),
        ("REFUSED, for a reason of a later version", 7, cbor([255])),
        ("MEET", 8, cbor([fixed("token"), 240])),
        ("MET, leads", 9, cbor([True])),
        ("MET", 9, cbor([False])),
        ("REKEY", 13, b""),
        ("CLOSE", 16, b""),
    ]
    bad = [
        ("type 0", frame(0, b"")),
        ("type 10", frame(10, b"")),
        ("topic of 31 bytes", frame(1, cbor([topic[:31], 0, 0]))),
        ("after a negative number", frame(1, cbor([topic, -1, 0]))),
        ("after more than 2^53", frame(1, cbor([topic, 2**53 + 1, 0]))),
        ("wait of 241 seconds", frame(1, cbor([topic, 0, 241]))),
        ("wait true", frame(1, cbor([topic, 0, True]))),
        ("read without wait", frame(1, cbor([topic, 0]))),
        ("base beyond newest", frame(2, cbor([10, running, 3, 9, 0]))),
        ("base before what is kept", frame(2, cbor([1, running, 3, 9, 3]))),
        ("first 0", frame(2, cbor([0, running, 0, 9, 3]))),
        ("first beyond newest + 1", frame(2, cbor([9, running, 11, 9, 0]))),
        ("count beyond newest", frame(2, cbor([6, running, 3, 9, 4]))),
        ("count 0 where there is more", frame(2, cbor([6, running, 3, 9, 0]))),
        ("count 1,025", frame(2, cbor([0, bytes(32), 1, 2000, 1025]))),
        ("hash of 31 bytes", frame(2, cbor([6, running[:31], 3, 9, 3]))),
        ("newest beyond 2^53", frame(2, cbor([6, running, 3, 2**53 + 1, 3]))),
        ("message of 0 bytes", frame(3, cbor([0]))),
        ("message of 1,048,577 bytes", frame(3, cbor([2**20 + 1]))),
        ("append of 0 bytes", frame(5, cbor([topic, signature, 0, 30]))),
        ("append of 1,048,577 bytes", frame(5, cbor([topic, signature, 2**20 + 1, 30]))),
        ("append for 0 days", frame(5, cbor([topic, signature, 1, 0]))),
        ("append for 367 days", frame(5, cbor([topic, signature, 1, 367]))),
        ("append with a signature of 63 bytes", frame(5, cbor([topic, signature[:63], 1, 30]))),
        ("appended as number 0", frame(6, cbor([0]))),
        ("reason 0", frame(7, cbor([0]))),
        ("reason 256", frame(7, cbor([256]))),
        ("token of 33 bytes", frame(8, cbor([fixed("token", 33), 60]))),
        ("meeting that waits 241 seconds", frame(8, cbor([fixed("token"), 241]))),
        ("leads 1", frame(9, cbor([1]))),
        ("rekey with a body", frame(13, b"\xf6")),
        ("close with a body", frame(16, b"\x00")),
        ("a map", frame(1, cbor({}))),
        ("bytes behind the value", frame(6, cbor([1]) + b"\0")),
        ("a number longer than needed", frame(6, b"\x81\x18\x01")),
        ("frame cut short", frame(6, cbor([1]))[:-1]),
    ]
    return (
        [{"name": name, "frame": frame(kind, body)} for name, kind, body in good],
        [{"reason": reason, "content": data} for reason, data in bad],
    )


def relays():
    valid_frames, invalid_frames = relay_frames()
    return {
        "valid": [
            handshake("usual", [2**20, 30], [0, 0]),
            handshake("largest fills", [1, 1], [255, 255]),
            handshake("1970", [65_536, 366], [10, 200], week=0),
        ],
        "invalid": [*broken_calls(), *broken_answers()],
        "frames": valid_frames,
        "invalid_frames": invalid_frames,
    }
