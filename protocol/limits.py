"""Every bound on what a stranger can make us keep, compute or send: with its unit, its reason and its neighbours.

`Limits` is handed in, so that a test can shrink it until the rare paths run every time. What two nodes must agree on
(it decides whether bytes are valid) is a constant; what a node decides for itself is a field.
"""

from dataclasses import dataclass

# Numbers in headers

SEQ_MAX = 2**32 - 1  # a log and a seq share one 63-bit row number in the store; 4 billion entries per start is plenty
LAMPORT_MAX = 2**53 - 1  # exact in every language's JSON
LAMPORT_STEP_MAX = 2**20  # an author cannot be dragged to LAMPORT_MAX by one stranger's huge clock
TIME_UNIT_SECONDS = 15 * 60  # time is a claim; finer than this it would identify
TIME_MAX = 2**32 - 1  # units of 15 minutes: 122,000 years
KIND_MAX = 255
REFS_MAX = 4

# Sizes in bytes

LOG_ID_SIZE = 8
LOG_KEY_SIZE = 17  # class byte, then BLAKE2b-128
PAYLOAD_SALT_SIZE = 16  # a short payload must not be guessable from the hash that outlives it
PAYLOAD_SIZE_MAX = 16 * 1024  # fits a frame four times; the largest report is under 14 KiB
HEADER_SIZE_MAX = 512

# Runs

CHECKPOINT_INTERVAL = 64  # entries with seq divisible by this carry a signature: a fork proof is <= 2 x 64 headers
CHECKPOINT_PAYLOAD_SIZE = 8 * 1024  # as do entries with a payload over this: big ones are never resent in a stretch
RUN_ENTRIES_MAX = 1024
RUN_SIZE_MAX = 1024 * 1024  # payload bytes of one run: what one unproven stretch can make us hold

# Records: Noise messages are at most 65,535 bytes; the padded plaintext is the largest Padme size below that.

RECORD_BODY_MAX = 63_488
RECORD_CONTENT_MAX = RECORD_BODY_MAX - 2  # a two-byte count leads the body
RECORD_FLOOR = 256  # small messages all look alike
FRAME_HEADER_SIZE = 4  # type and three bytes of length
FRAME_BODY_MAX = RECORD_CONTENT_MAX - FRAME_HEADER_SIZE
REKEY_RECORDS = 2**20
REKEY_SECONDS = 3600

# Handshakes

HANDSHAKE_SALT_SIZE = 16
HANDSHAKE_MESSAGE_MAX = 480  # of one Noise message; the longest we write is 405, the rest is room for later bodies
HANDSHAKE_FILL_MAX = 255  # random bytes per message: the three together are 341 to 1,106 bytes
HANDSHAKE_WEEK_SECONDS = 7 * 24 * 3600  # masks change with it; clocks may be off by one
HANDSHAKE_SECONDS = 10
SILENCE_SECONDS_MIN = 10  # a stranger is read and discarded for a random time between these two
SILENCE_SECONDS_MAX = 60

# Conversation

POSITIONS_PER_FRAME = 512
IDLE_SECONDS = 15 * 60  # both ends speak every few minutes; who is silent this long is gone
RECONCILE_ROUNDS_MAX = 64  # an honest exchange over 10^6 items needs fewer than 20

# Bundles

BUNDLE_CHUNK_SIZE = 64 * 1024  # bytes of a sealed piece: no frame crosses one, so nothing larger is ever decoded
BUNDLE_SEGMENT_CHUNKS = 64  # pieces that hang on each other: a bad sector of a stick costs 4 MiB, not the rest
BUNDLE_FLOOR = 4096  # a short report and a long one look alike

# Relays

MESSAGE_SIZE_MAX = 1024 * 1024  # bytes of one message of a mailbox: what a relay and a reader must hold at once
PAGE_MESSAGES_MAX = 1024  # messages in one answer to a reader
PAGE_SIZE_MAX = 1024 * 1024  # bytes of them; one message alone may be as long as it is allowed to be
WAIT_SECONDS_MAX = 240  # how long a reader may ask to be told of news; well inside IDLE_SECONDS
KEEP_DAYS_MAX = 366  # how long a message may ask to be kept; a relay keeps it as long as it likes
MEETING_LANES = 16  # a waiting node is found after at most so many tries

assert PAYLOAD_SIZE_MAX * 3 < FRAME_BODY_MAX
assert WAIT_SECONDS_MAX < IDLE_SECONDS
assert MESSAGE_SIZE_MAX <= PAGE_SIZE_MAX
assert FRAME_HEADER_SIZE + FRAME_BODY_MAX < BUNDLE_CHUNK_SIZE - 17  # secretstream's own bytes
assert BUNDLE_FLOOR < BUNDLE_CHUNK_SIZE
assert CHECKPOINT_INTERVAL < RUN_ENTRIES_MAX
assert SILENCE_SECONDS_MIN >= HANDSHAKE_SECONDS
assert HANDSHAKE_SALT_SIZE + 3 * (2 + HANDSHAKE_MESSAGE_MAX) <= 1536  # one packet or two, whoever fills them


@dataclass(frozen=True, slots=True)
class Limits:
    """What one node allows itself and its peers; tests shrink it."""

    run_entries_max: int = RUN_ENTRIES_MAX  # entries we put into one run (never more than RUN_ENTRIES_MAX)
    run_size_max: int = RUN_SIZE_MAX  # payload bytes we put into one run
    asked_max: int = 4096  # positions waiting for their answer, each way and session
    pushes_max: int = 4096  # logs with news that one session may have waiting; beyond, it compares instead
    outgoing_bytes_max: int = 2 * 1024 * 1024  # encrypted bytes a session may have unsent before it stops serving
    reconcile_frame_max: int = 60_000  # bytes of one reconciliation message
    sessions_max: int = 256  # open links in all
    strangers_max: int = 64  # links that have not finished a handshake
    strangers_per_address_max: int = 8  # of those, from one address (loopback excepted)
    handshakes_per_second: int = 50  # first messages tried per second, in all

    def __post_init__(self) -> None:
        assert 1 <= self.run_entries_max <= RUN_ENTRIES_MAX
        assert PAYLOAD_SIZE_MAX <= self.run_size_max <= RUN_SIZE_MAX
        assert self.reconcile_frame_max <= FRAME_BODY_MAX
