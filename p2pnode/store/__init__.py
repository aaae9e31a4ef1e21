"""Store: everything that a node keeps, in one encrypted file. The only SQL there is."""

from p2pnode.store.errors import StoreDamaged, StoreError, StoreFailed, StoreFull, StoreLocked, StoreRefused
from p2pnode.store.file import make
from p2pnode.store.heads import HeldLog, position
from p2pnode.store.intake import DECLINED, INVALID, Declined, Gate, Outcome
from p2pnode.store.peers import Once
from p2pnode.store.relays import Content, Lack, Posted, RelayRow, TopicRow
from p2pnode.store.spaces import Counters, SpaceRow
from p2pnode.store.store import Store

__all__ = [
    "DECLINED",
    "INVALID",
    "Content",
    "Counters",
    "Declined",
    "Gate",
    "HeldLog",
    "Lack",
    "Once",
    "Outcome",
    "Posted",
    "RelayRow",
    "SpaceRow",
    "Store",
    "StoreDamaged",
    "StoreError",
    "StoreFailed",
    "StoreFull",
    "StoreLocked",
    "StoreRefused",
    "TopicRow",
    "make",
    "position",
]
