"""Events: what a connection tells its owner. What a peer says is told as the message that it is."""

from dataclasses import dataclass

from protocol.handshake import Opened, RemoteEnd
from protocol.messages import (
    Decline,
    Digest,
    End,
    Joined,
    Positions,
    Probe,
    RunMessage,
    Same,
    Totals,
    Want,
    Welcome,
)


@dataclass(frozen=True, slots=True)
class Established:
    """The handshake is done: who is there and what it held when it answered."""

    remote: RemoteEnd


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """The initiator reconciles: call answer(snapshot) with our items as of now."""


@dataclass(frozen=True, slots=True)
class Differences:
    """Reconciliation is done: the keys of all logs that the two ends do not hold alike, in order of class."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer said that it is done; nothing of the stream was cut off."""


Event = (
    Opened
    | Established
    | SnapshotWanted
    | Differences
    | Ended
    | Positions
    | Same
    | Decline
    | End
    | Probe
    | Want
    | RunMessage
    | Totals
    | Digest
    | Welcome
    | Joined
)
