"""Welcome: what lies at a relay for whoever holds an invitation, so that nobody has to be there when it is used.

    bundle under the join secret: WELCOME (the epochs' secrets), then the membership logs
    topic  derived from the join secret and the relay's key, used for nothing else

Whoever has the invitation can fetch it for as long as the relay keeps it, more than once: it opens what the space holds
for reading. Who may write is settled as ever, by the first claim and its grant. Whoever has it can also put something
else there: a welcome is one whose secrets fit the founding entry that the space is named after.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from p2pnode import packing
from p2pnode.ambient import Ambient
from p2pnode.calling import CallFailed, RelayAt, dial
from p2pnode.socks import Dialler
from p2pnode.space import Space, statements_of
from p2pnode.store import Store
from protocol.bundle import SALT_SIZE, Opener, Part, Sealer, Unsealer
from protocol.entry import LogClass
from protocol.invite import Invitation
from protocol.limits import BUNDLE_CHUNK_SIZE, KEEP_DAYS_MAX
from protocol.log import Run
from protocol.mailbox import welcome_topic
from protocol.messages import RunMessage, Welcome
from protocol.statement import Founding, epoch_hash

DAY_SECONDS = 24 * 3600
MESSAGES_MAX = 64  # of one welcome: membership logs of a hundred thousand entries


@dataclass(frozen=True, slots=True)
class Found:
    """A welcome: the secrets, oldest first, and the membership logs, nothing of them proven yet."""

    epochs: tuple[bytes, ...]
    runs: Sequence[Run]


async def leave(
    store: Store, space: Space, join_secret: bytes, seconds: int, at: RelayAt, dialler: Dialler, ambient: Ambient
) -> None:
    """Puts a welcome at a relay, to be kept as long as the invitation is good. Raises CallFailed or RelayRefused."""
    topic = welcome_topic(join_secret, at.key)
    days = min(seconds // DAY_SECONDS + 1, KEEP_DAYS_MAX)
    everything = (await packing.order(store, space, {})).lacks
    membership = [lack for lack in everything if lack.key[0] == LogClass.MEMBERSHIP]
    async with dial(dialler, at, topic.key, ambient) as call:
        size_max = call.terms.message_size_max
        if size_max < packing.MESSAGE_SIZE_MIN:
            raise CallFailed("too-small")
        for number, part in enumerate(packing.fitting(store, space, membership, size_max)):
            first: list[Part] = [] if number else [Welcome(space.epochs)]
            sealer = Sealer(join_secret, ambient.entropy(SALT_SIZE))
            pieces = [sealer.put(said) for said in [*first, *map(RunMessage, part)]]
            await call.append(topic, b"".join([*pieces, sealer.finish()]), days)


async def fetch(invitation: Invitation, at: RelayAt, dialler: Dialler, ambient: Ambient) -> Found | None:
    """The welcome that lies at a relay; None where none does. Raises CallFailed or RelayRefused."""
    topic = welcome_topic(invitation.join_secret, at.key)
    welcomes: list[tuple[bytes, ...]] = []
    runs: list[Run] = []
    after = 0
    async with dial(dialler, at, topic.key, ambient) as call:
        while after < MESSAGES_MAX:
            page = await call.read(topic.key, after)
            for message in page.messages:
                unsealer = Unsealer(message[:SALT_SIZE], [Opener(invitation.space, invitation.join_secret)])
                for at_byte in range(SALT_SIZE, len(message), BUNDLE_CHUNK_SIZE):
                    for part in unsealer.read_untrusted(message[at_byte : at_byte + BUNDLE_CHUNK_SIZE]):
                        match part:
                            case Welcome(secrets):
                                welcomes.append(secrets)
                            case RunMessage(unproven):
                                runs.append(unproven)
                            case _:
                                pass
            after = page.base + len(page.messages)
            if not page.messages or after >= page.newest:
                break
    named = _epoch_hashes(invitation.space, runs)
    epochs = next((secrets for secrets in welcomes if not named.isdisjoint(map(epoch_hash, secrets))), None)
    return Found(epochs, runs) if epochs is not None else None


def _epoch_hashes(space: bytes, runs: Sequence[Run]) -> set[bytes]:
    """What the founding entry among these says of the first epoch's secret: the space is named after that entry."""
    founding = [run.first(1) for run in runs if run.ids[0] == space]
    return {said.body.epoch_hash for said in statements_of(space, founding) if isinstance(said.body, Founding)}
