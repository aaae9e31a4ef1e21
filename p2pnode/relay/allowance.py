"""Allowance: what one relay allows its callers, and how much of it each address has used today.

Addresses are kept for a day in memory alone, as hashes under a key of this start: a relay can slow somebody down whom
it could not name. Whoever comes by way of this machine's own loopback has no share of that kind: behind an onion
service everybody has one address.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from p2pnode.door import is_loopback
from protocol.limits import MESSAGE_SIZE_MAX, Limits
from protocol.mailbox import LIVE_WEEKS
from protocol.relay_handshake import Terms

DAY_SECONDS = 24 * 3600
ADDRESS_KEY_SIZE = 16


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What an operator may set; tests shrink it."""

    links: Limits = field(default_factory=lambda: Limits(sessions_max=512, handshakes_per_second=200))
    visits_per_address_max: int = 64  # at once, loopback excepted: who knows the key does not take every place
    message_size_max: int = MESSAGE_SIZE_MAX
    days_max: int = LIVE_WEEKS * 7 + 7  # the weeks that are read, and one for clocks and the fuzz
    fuzz_days_max: int = 7  # a message goes so many days later, drawn anew: its end does not tell its beginning
    address_bytes_max: int = 1024 * 1024 * 1024  # appended in a day from one address
    addresses_max: int = 65_536  # of which that is remembered; beyond, all begin anew
    waiting_max: int = 256  # callers at the meeting point who wait for another
    meeting_bytes_max: int = 256 * 1024 * 1024  # passed on between two, both ways together
    meeting_seconds_max: float = 1800.0

    @property
    def terms(self) -> Terms:
        """What every caller is told."""
        return Terms(self.message_size_max, self.days_max)


class Allowance:
    """How much each address may still append today."""

    def __init__(self, limits: RelayLimits, entropy: Callable[[int], bytes]) -> None:
        self._limits = limits
        self._entropy = entropy
        self._key = b""
        self._day = -1
        self._used: Counter[bytes] = Counter()

    def spend(self, address: str, size: int, now: float) -> bool:
        """Whether so many bytes more are within the address's share; if so they are taken off it."""
        if is_loopback(address):
            return True
        if int(now // DAY_SECONDS) != self._day or len(self._used) >= self._limits.addresses_max:
            self._day = int(now // DAY_SECONDS)
            self._key = self._entropy(ADDRESS_KEY_SIZE)
            self._used.clear()
        who = blake2b(address.encode(), key=self._key, digest_size=ADDRESS_KEY_SIZE).digest()
        if self._used[who] + size > self._limits.address_bytes_max:
            return False
        self._used[who] += size
        return True
