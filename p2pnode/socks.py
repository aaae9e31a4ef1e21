"""Socks: the one place that opens connections to other machines, directly or through a SOCKS5 proxy.

With a proxy everything goes through it or fails: the proxy is asked for names too, and whatever is wrong with it, no
other way is tried. What may share a path through the proxy is a `circuit`: each has a user name and password of its
own, under which Tor keeps streams apart (IsolateSOCKSAuth). They are made with a secret of this start, so the proxy
learns from them neither what they stand for nor that it has seen them before.
"""

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from hashlib import blake2b

import trio

from p2pnode.config import Proxy
from protocol.limits import HANDSHAKE_SECONDS

PROXY_SECONDS = 60.0  # Tor may have to build several circuits first
SECRET_SIZE = 32
ONION = ".onion"


class Failure(StrEnum):
    """Why there is no stream."""

    UNREACHABLE = "unreachable"  # nobody answered in time, or the proxy says so
    PROXY_DOWN = "proxy-down"  # there is no proxy, or it does not do what one does
    NO_PROXY = "no-proxy"  # an onion name, which only a proxy can reach and DNS must not see


class Dialler:
    """Opens streams. `entropy` is asked once, for the secret behind the names of circuits."""

    def __init__(self, proxy: Proxy | None, entropy: Callable[[int], bytes]) -> None:
        self._proxy = proxy
        self._secret = entropy(SECRET_SIZE)

    async def open(self, address: tuple[str, int], circuit: bytes) -> trio.SocketStream | Failure:
        """A TCP stream to an address. Streams share a path through the proxy only if their `circuit` is the same."""
        if self._proxy is not None:
            return await self._open_through(self._proxy, address, circuit)
        if address[0].rstrip(".").lower().endswith(ONION):
            return Failure.NO_PROXY
        with trio.move_on_after(HANDSHAKE_SECONDS), suppress(OSError, ValueError):
            return await trio.open_tcp_stream(*address)
        return Failure.UNREACHABLE

    async def _open_through(
        self, proxy: Proxy, address: tuple[str, int], circuit: bytes
    ) -> trio.SocketStream | Failure:
        import python_socks  # 10 ms that only a node behind a proxy pays
        from python_socks.async_.trio import Proxy as Client

        name = blake2b(circuit, key=self._secret).hexdigest()
        user, password = name[: len(name) // 2], name[len(name) // 2 :]
        client = Client(python_socks.ProxyType.SOCKS5, proxy.host, proxy.port, user, password, rdns=True)
        try:
            return trio.SocketStream(await client.connect(*address, timeout=PROXY_SECONDS))
        except python_socks.ProxyTimeoutError:
            return Failure.UNREACHABLE
        except python_socks.ProxyError as error:
            return Failure.PROXY_DOWN if error.error_code is None else Failure.UNREACHABLE
        except (OSError, UnicodeDecodeError):
            return Failure.PROXY_DOWN
        except ValueError:  # not a name at all
            return Failure.UNREACHABLE
