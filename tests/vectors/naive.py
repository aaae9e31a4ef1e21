"""Naive: the specification read once more, in the plainest code there is, for making and checking vectors.

It shares no line with `protocol` and never imports it. Nothing is checked, nothing is fast, every key is known: what
it writes is either valid by construction or broken on purpose. Only Curve25519 and ChaCha20-Poly1305 come from
libsodium; CBOR, Noise, secretstream, padding and the trees of hashes are written out.
"""

import hashlib
import hmac
from base64 import b32encode

from nacl import bindings

WEEK_SECONDS = 604_800
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the Ed25519 base point


# CBOR


def cbor(value):
    if value is False:
        return b"\xf4"
    if value is True:
        return b"\xf5"
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return count(0, value) if value >= 0 else count(1, -1 - value)
    if isinstance(value, bytes):
        return count(2, len(value)) + value
    if isinstance(value, str):
        return count(3, len(value.encode())) + value.encode()
    if isinstance(value, (list, tuple)):
        return count(4, len(value)) + b"".join(cbor(item) for item in value)
    pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
    return count(5, len(pairs)) + b"".join(key + item for key, item in pairs)


def count(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    for more, size in enumerate((1, 2, 4, 8)):
        if number < 256**size:
            return bytes([major << 5 | 24 + more]) + number.to_bytes(size, "big")
    raise ValueError(number)


# Hashes, signatures, ciphers


def blake(person, data, size=32, key=b""):
    return hashlib.blake2b(data, digest_size=size, person=person, key=key).digest()


def sign(seed, purpose, message):
    secret = bindings.crypto_sign_seed_keypair(seed)[1]
    return bindings.crypto_sign(purpose + message, secret)[:64]


def public(seed):
    return bindings.crypto_sign_seed_keypair(seed)[0]


def seal(key, number, plaintext, ad=b""):
    nonce = bytes(4) + number.to_bytes(8, "little")
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, ad, nonce, key)


def dh_public(secret):
    return bindings.crypto_scalarmult_base(secret)


def dh(secret, key):
    return bindings.crypto_scalarmult(secret, key)


# Entries and runs


def header(space, author, log_id, cls, seq, prev, lamport, time, kind, size, digest, refs):
    return cbor([1, space, author, log_id, cls, seq, prev, lamport, time, kind, size, digest, refs])


def entry_id(header_bytes):
    return blake(b"p2pnode id 1", header_bytes)


def payload_hash(payload):
    return blake(b"p2pnode pay 1", payload)


def log_key(space, author, cls, log_id, founding=False):
    named = space + author + bytes([cls]) + log_id + (b"founding" if founding else b"")
    return bytes([cls]) + blake(b"p2pnode log 1", named, 16)


def frame(kind, body):
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def steps(column):
    return [column[0]] + [column[i] - column[i - 1] for i in range(1, len(column))]


class Log:
    """Entries of one author, one after the other, and the frames in which a stretch of them travels."""

    def __init__(self, space, seed, log_id, cls, seq=0, prev=None):
        self.space, self.seed, self.log_id, self.cls = space, seed, log_id, cls
        self.first = seq + 1
        self.before = prev
        self.entries = []

    def add(self, payload, lamport, time=1_990_000, kind=64, refs=(), dropped=False):
        prev = self.entries[-1]["id"] if self.entries else self.before
        seq = self.first + len(self.entries)
        raw = header(
            self.space, public(self.seed), self.log_id, self.cls, seq, prev, lamport, time, kind,
            len(payload), payload_hash(payload), list(refs),
        )  # fmt: skip
        must_sign = seq % 64 == 0 or len(payload) > 8192
        self.entries.append(
            {
                "id": entry_id(raw), "seq": seq, "lamport": lamport, "time": time, "kind": kind, "refs": list(refs),
                "payload": payload, "dropped": dropped, "must_sign": must_sign, "header": raw,
                "signature": sign(self.seed, b"p2pnode entry 1", entry_id(raw)),
            }
        )  # fmt: skip
        return self.entries[-1]

    def columns(self):
        """The header part of a run of all these entries, as the list that is encoded."""
        entries = self.entries
        lamports = [e["lamport"] for e in entries]
        times = [e["time"] for e in entries]
        kinds = [e["kind"] for e in entries]
        signatures, refs, lacks = [], [], []
        for index, e in enumerate(entries):
            if e["must_sign"] or index == len(entries) - 1:
                signatures += [index, e["signature"]]
            if e["refs"]:
                refs += [index, e["refs"]]
            if e["dropped"]:
                lacks += [index, len(e["payload"]), payload_hash(e["payload"])]
        rising = all(step == 1 for step in steps(lamports)[1:])
        return [
            public(self.seed), self.log_id, self.cls, self.first, self.before, len(entries),
            lamports[0] if rising else steps(lamports),
            times[0] if len(set(times)) == 1 else steps(times),
            kinds[0] if len(set(kinds)) == 1 else kinds,
            signatures, refs, lacks,
        ]  # fmt: skip

    def payloads(self):
        return [e["payload"] for e in self.entries if not e["dropped"]]

    def frames(self):
        """RUN, then all payloads in one PAYLOADS frame: small ones only."""
        parts = [frame(9, cbor(self.columns()))]
        return parts + ([frame(10, cbor(self.payloads()))] if self.payloads() else [])


# Handshakes: Noise_XXpsk0_25519_ChaChaPoly_BLAKE2b and Noise_NK_25519_ChaChaPoly_BLAKE2b, masked and filled


def hash64(data):
    return hashlib.blake2b(data).digest()


def hkdf(ck, material, outputs):
    key = hmac.new(ck, material, hashlib.blake2b).digest()
    first = hmac.new(key, b"\x01", hashlib.blake2b).digest()
    second = hmac.new(key, first + b"\x02", hashlib.blake2b).digest()
    third = hmac.new(key, second + b"\x03", hashlib.blake2b).digest()
    return [first, second, third][:outputs]


def xor(left, right):
    return bytes(a ^ b for a, b in zip(left, right, strict=False))


class Noise:
    """Both ends at once, with all their secrets, under the masks of one secret and week."""

    def __init__(self, name, secret, mode, space, week, salt):
        about = bytes([1, mode]) + space + week.to_bytes(8, "big", signed=True)
        self.mask_key = blake(b"p2pnode mask 1", about, key=secret)
        self.pads = {n: blake(b"p2pnode pad 1", salt + bytes([n]), 64, key=self.mask_key) for n in (1, 2, 3, 4)}
        self.salt = salt
        self.h = f"Noise_{name}_25519_ChaChaPoly_BLAKE2b".encode().ljust(64, b"\0")
        self.ck = self.h
        self.mix_hash(cbor([1, mode, space]))

    def mix_hash(self, data):
        self.h = hash64(self.h + data)

    def mix_key(self, material):
        self.ck, key = hkdf(self.ck, material, 2)
        self.k, self.n = key[:32], 0

    def encrypt(self, plaintext):
        sealed = seal(self.k, self.n, plaintext, self.h)
        self.n += 1
        self.mix_hash(sealed)
        return sealed

    def masked(self, number, message, size, length=None):
        wire = (len(message) if length is None else length).to_bytes(2, "big") + message
        return xor(wire[:size], self.pads[number]) + wire[size:]

    def split(self):
        """The key under which the initiator sends, then the responder's."""
        return [key[:32] for key in hkdf(self.ck, b"", 2)]


class Handshake(Noise):
    """Between members: each method gives the bytes of one message on the stream."""

    def __init__(self, secret, mode, space, week, salt, i_static, i_ephemeral, r_static, r_ephemeral):
        super().__init__("XXpsk0", secret, mode, space, week, salt)
        self.psk = blake(b"p2pnode psk 1", b"", key=secret)
        self.i_static, self.i_ephemeral, self.r_static, self.r_ephemeral = i_static, i_ephemeral, r_static, r_ephemeral

    def ephemeral(self, key):
        self.mix_hash(key)
        self.mix_key(key)
        return key

    def first(self, payload, e=None):
        self.ck, mixed, key = hkdf(self.ck, self.psk, 3)
        self.mix_hash(mixed)
        self.k, self.n = key[:32], 0
        message = self.ephemeral(e or dh_public(self.i_ephemeral)) + self.encrypt(payload)
        self.replay_tag = blake(b"p2pnode replay 1", self.salt + message[:32], 16)
        return self.salt + self.masked(1, message, 34)

    def second(self, payload):
        message = self.ephemeral(dh_public(self.r_ephemeral))
        self.mix_key(dh(self.r_ephemeral, dh_public(self.i_ephemeral)))
        message += self.encrypt(dh_public(self.r_static))
        self.mix_key(dh(self.r_static, dh_public(self.i_ephemeral)))
        return self.masked(2, message + self.encrypt(payload), 34)

    def third(self, payload):
        message = self.encrypt(dh_public(self.i_static))
        self.mix_key(dh(self.i_static, dh_public(self.r_ephemeral)))
        return self.masked(3, message + self.encrypt(payload), 2)


class RelayHandshake(Noise):
    """Between a caller and a relay."""

    def __init__(self, relay, week, salt, c_ephemeral, r_ephemeral, mode=3):
        self.relay, self.c_ephemeral, self.r_ephemeral = relay, c_ephemeral, r_ephemeral
        key = dh_public(relay)
        super().__init__("NK", key, mode, key, week, salt)
        self.mix_hash(key)

    def first(self, payload, e=None):
        e = e or dh_public(self.c_ephemeral)
        self.mix_hash(e)
        self.mix_key(dh(self.c_ephemeral, dh_public(self.relay)))
        message = e + self.encrypt(payload)
        self.replay_tag = blake(b"p2pnode replay 2", self.salt + e, 16)
        return self.salt + self.masked(1, message, 34)

    def answer(self, payload, e=None):
        e = e or dh_public(self.r_ephemeral)
        self.mix_hash(e)
        self.mix_key(dh(self.r_ephemeral, dh_public(self.c_ephemeral)))
        return self.masked(4, e + self.encrypt(payload), 34)


def filled(body, fill):
    return len(body).to_bytes(2, "big") + body + fill


# Records


def padme(size):
    """As in the paper: keep log2(log2(size)) + 1 leading binary digits, round up, the rest are zeros."""
    exponent = 0
    while 2 ** (exponent + 1) <= size:
        exponent += 1
    digits = 0
    while 2**digits <= exponent:
        digits += 1
    step = 2 ** max(0, exponent - digits)
    return -(-size // step) * step


def body_size(content_size):
    return padme(max(256, content_size + 2))


class Sender:
    """One direction of a session."""

    def __init__(self, key):
        self.key, self.number = key, 0

    def seal(self, plaintext):
        self.number += 1
        return seal(self.key, self.number - 1, plaintext)

    def record(self, content):
        body = (len(content).to_bytes(2, "big") + content).ljust(body_size(len(content)), b"\0")
        return self.raw(body)

    def raw(self, body, length=None):
        return self.seal((len(body) if length is None else length).to_bytes(2, "big")) + self.seal(body)

    def rekey(self):
        self.key = seal(self.key, 2**64 - 1, bytes(32))[:32]


# Frontier


def bucket(records):
    """Of the (key, high, newest, state) whose key has this bucket's number as its second byte."""
    return blake(b"p2pnode bucket 1", b"".join(cbor(list(record)) for record in sorted(records, key=lambda r: r[0])))


def frontier(space, records):
    buckets = [bucket([r for r in records if r[0][1] == number]) for number in range(256)]
    return blake(b"p2pnode front 1", space + b"".join(buckets))


def item(session_key, key, high, newest, state):
    return key + blake(b"p2pnode item 1", cbor([high, newest, state]), 15, key=session_key)


# Payloads, invitations, beacons


def bound(space, author):
    """What an admission key signs."""
    return blake(b"p2pnode admit 1", space + author)


def invitation(space, join_secret, seed, expires_s, addresses, relays, version=1):
    body = cbor([space, join_secret, seed, expires_s, addresses, relays])
    return invitation_of(bytes([version]) + len(body).to_bytes(2, "big") + body)


def invitation_of(framed):
    return b32encode(framed + blake(b"p2pnode string 1", framed, 4)).decode().rstrip("=").lower()


def slot(key, hour, port, instance):
    return blake(b"p2pnode beacon 1", hour.to_bytes(8, "big") + port.to_bytes(2, "big") + instance.encode(), 16, key)


# Secretstream (libsodium's, XChaCha20-Poly1305): ChaCha20's blocks 0 and 1 and Poly1305 written out


def rotated(word, bits):
    return (word << bits | word >> 32 - bits) & 0xFFFFFFFF


def twenty_rounds(words):
    x = list(words)
    columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for a, b, c, d in (columns + diagonals) * 10:
        for to, by, turned, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[to] = (x[to] + x[by]) & 0xFFFFFFFF
            x[turned] = rotated(x[turned] ^ x[to], bits)
    return x


def words_of(data):
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def bytes_of(words):
    return b"".join(word.to_bytes(4, "little") for word in words)


def chacha_start(key, last_16):
    return words_of(b"expand 32-byte k" + key + last_16)


def chacha_block(key, counter, nonce):
    start = chacha_start(key, counter.to_bytes(4, "little") + nonce)
    return bytes_of((a + b) & 0xFFFFFFFF for a, b in zip(start, twenty_rounds(start), strict=True))


def hchacha(key, nonce_16):
    words = twenty_rounds(chacha_start(key, nonce_16))
    return bytes_of(words[:4] + words[12:])


def chacha_from_1(key, nonce, data):
    """`data` under the blocks from 1 on: what libsodium's AEAD puts before its tag."""
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(data, b"", nonce, key)[:-16]


def poly1305(key, data):
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for at in range(0, len(data), 16):
        total = (total + int.from_bytes(data[at : at + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


class Stream:
    """One secretstream without rekeying: tags 0 (there is more) and 3 (the end)."""

    def __init__(self, key, header):
        self.key, self.counter, self.rest = hchacha(key, header[:16]), 1, header[16:]

    def seal(self, piece, tag):
        nonce = self.counter.to_bytes(4, "little") + self.rest
        sealed = chacha_from_1(self.key, nonce, bytes([tag]).ljust(64, b"\0") + piece)
        block, ciphertext = sealed[:64], sealed[64:]
        # as libsodium has it: filled up with len % 16 zeros, and not to a multiple of 16
        data = block + ciphertext + bytes(len(piece) % 16)
        data += (0).to_bytes(8, "little") + (64 + len(piece)).to_bytes(8, "little")
        mac = poly1305(chacha_block(self.key, 0, nonce)[:32], data)
        self.rest = xor(self.rest, mac)
        self.counter += 1
        return block[:1] + ciphertext + mac


# Bundles and mailboxes

CHUNK, OVERHEAD, SEGMENT_CHUNKS = 65_536, 17, 64


def bundle_key(secret):
    return blake(b"p2pnode bundle 1", b"", key=secret)


def segment_header(key, salt, number):
    return blake(b"p2pnode segm 1", salt + number.to_bytes(4, "big"), 24, key)


def bundle_size(full, last):
    """With so many full chunks before one that holds `last` bytes of frames."""
    return padme(max(4096, 24 + CHUNK * full + last + OVERHEAD))


def bundle(secret, salt, frames):
    contents = [b""]
    for one in frames:
        if len(contents[-1]) + len(one) > CHUNK - OVERHEAD:
            contents.append(b"")
        contents[-1] += one
    size = bundle_size(len(contents) - 1, len(contents[-1])) - 24
    lengths = [min(CHUNK, size - at) - OVERHEAD for at in range(0, size, CHUNK)]
    contents += [b""] * (len(lengths) - len(contents))
    key, sealed = bundle_key(secret), salt
    for number, (content, length) in enumerate(zip(contents, lengths, strict=True)):
        if number % SEGMENT_CHUNKS == 0:
            stream = Stream(key, segment_header(key, salt, number // SEGMENT_CHUNKS))
        sealed += stream.seal(content.ljust(length, b"\0"), 3 if number == len(lengths) - 1 else 0)
    return sealed


def topic_seed(secret, relay_key, week):
    return blake(b"p2pnode topic 1", relay_key + week.to_bytes(8, "big", signed=True), key=secret)


def welcome_seed(join_secret, relay_key):
    return blake(b"p2pnode welc 1", relay_key, key=join_secret)


def token(secret, relay_key, hour, lane):
    return blake(b"p2pnode meet 1", relay_key + hour.to_bytes(8, "big", signed=True) + bytes([lane]), key=secret)


def message_hash(message):
    return blake(b"p2pnode mail 1", message)


def chained(before, message):
    return blake(b"p2pnode chain 1", before + message_hash(message))


def append_bound(topic, message):
    """What the signature of an append is over."""
    return blake(b"p2pnode app 1", topic + message_hash(message))


# What cases are made of


def fixed(name, size=32):
    """Bytes that look random and are a function of their name."""
    return hashlib.shake_256(name.encode()).digest(size)


SPACE = fixed("space")
SEED, OTHER_SEED = fixed("author"), fixed("other author")
AUTHOR = public(SEED)
LOG_ID = fixed("log", 8)
LAMPORT_MAX, SEQ_MAX, TIME_MAX = 2**53 - 1, 2**32 - 1, 2**32 - 1


def payload_of(name, size=40):
    return fixed("payload " + name, size)
