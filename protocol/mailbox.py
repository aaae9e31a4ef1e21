"""Mailbox: what a relay keeps for people whom it does not know, and the secrets by which they find it.

    topic   an append-only sequence of sealed messages, numbered from 1, named by an Ed25519 public key
    cursor  (number, running hash): how far somebody has read; h0 = 32 zeros, hn = H(hn-1 || H(message n))
    token   32 bytes that two nodes which both dialled out show at a meeting point, to be joined

    seed of a topic   = MAC(secret, relay key || week)         the secret: an epoch's, or an invitation's join secret
    token             = MAC(epoch secret, relay key || hour || lane)

A relay sees keys and tokens and cannot tell which belong together: not two weeks, not two relays, not topic and token.
Whoever knows the secret derives the private half, and signs what it appends: strangers are kept out by a relay that
knows nobody. The signature covers the topic's own key, which no other relay has.

The running hash makes a relay keep to its story. One that was restored from a copy, or that tells two members two
stories, is found out as soon as one of them comes back, or reads what the other has appended. Specification "Mailbox".
"""

from dataclasses import dataclass, field

from protocol import keys
from protocol.limits import MEETING_LANES

WEEK_SECONDS = 7 * 24 * 3600
HOUR_SECONDS = 3600
HASH_SIZE = 32
LIVE_WEEKS = 8  # topics of this and the seven weeks before it are read; a relay keeps messages that long

_TOPIC_PERSON = b"p2pnode topic 1"
_WELCOME_PERSON = b"p2pnode welc 1"
_TOKEN_PERSON = b"p2pnode meet 1"
_MESSAGE_PERSON = b"p2pnode mail 1"
_CHAIN_PERSON = b"p2pnode chain 1"
_APPEND_PERSON = b"p2pnode app 1"


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a topic has been read; `BEGINNING` is before its first message."""

    number: int
    hash: bytes

    def behind(self, message: bytes) -> "Cursor":
        """The cursor behind one more message."""
        return Cursor(self.number + 1, chained(self.hash, message_hash(message)))


BEGINNING = Cursor(0, bytes(HASH_SIZE))


@dataclass(frozen=True, slots=True)
class Topic:
    """The private half of a topic: whoever holds it may append."""

    key: bytes
    secret: bytes = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """The signature that lets a message in."""
        return keys.sign(self.secret, keys.SIGN_APPEND, _bound(self.key, message_hash(message)))


def topic_of(secret: bytes, relay_key: bytes, week: int) -> Topic:
    """The topic of an epoch's week at one relay."""
    return _topic(keys.keyed_hash(secret, _TOPIC_PERSON, relay_key + week.to_bytes(8, "big", signed=True)))


def welcome_topic(join_secret: bytes, relay_key: bytes) -> Topic:
    """The one-off topic in which an invitation's welcome lies at one relay."""
    return _topic(keys.keyed_hash(join_secret, _WELCOME_PERSON, relay_key))


def token(epoch_secret: bytes, relay_key: bytes, hour: int, lane: int) -> bytes:
    """What two members show at a meeting point in the same hour and lane."""
    assert 0 <= lane < MEETING_LANES
    about = relay_key + hour.to_bytes(8, "big", signed=True) + bytes([lane])
    return keys.keyed_hash(epoch_secret, _TOKEN_PERSON, about)


def week_of(now: float) -> int:
    """The week that a topic is named after, from seconds since 1970."""
    return int(now // WEEK_SECONDS)


def hour_of(now: float) -> int:
    """The hour that a token is good for, from seconds since 1970."""
    return int(now // HOUR_SECONDS)


def message_hash(message: bytes) -> bytes:
    """The 32 bytes by which a topic knows a message: the same message twice is one."""
    return keys.hash_of(_MESSAGE_PERSON, message)


def chained(before: bytes, digest: bytes) -> bytes:
    """The running hash behind the message with this hash."""
    return keys.hash_of(_CHAIN_PERSON, before + digest)


def may_append(topic_key: bytes, digest: bytes, signature: bytes) -> bool:
    """Whether the holder of the topic's private half wants the message with this hash in it. Any bytes may be given."""
    return keys.verified(topic_key, keys.SIGN_APPEND, _bound(topic_key, digest), signature)


def _topic(seed: bytes) -> Topic:
    return Topic(keys.signer_public(seed), keys.signer_secret(seed))


def _bound(topic_key: bytes, digest: bytes) -> bytes:
    return keys.hash_of(_APPEND_PERSON, topic_key + digest)
