"""Channel: what a finished handshake becomes: frames in, records out, and back.

    frame, frame, … -> record          what waits together shares records; a frame never crosses one
    record -> content                  the owner splits it into the frames of its own protocol

Both protocols that run over it, between members and with a relay, have REKEY and CLOSE under the same numbers: a
channel puts REKEY in by itself when its time has come, and the owner tells it when the peer has sent one.
"""

from collections.abc import Iterator

from protocol.frames import Type, frame
from protocol.limits import RECORD_CONTENT_MAX
from protocol.noise import Transport
from protocol.records import RecordReader, RecordWriter


class Channel:
    """One end; `now` is any clock in seconds that never runs back."""

    __slots__ = ("_frames", "_frames_size", "_reader", "_records", "_writer")

    def __init__(self, transport: Transport, now: float) -> None:
        self._reader = RecordReader(transport.receive)
        self._writer = RecordWriter(transport.send, now)
        self._frames: list[bytes] = []  # not yet in a record
        self._frames_size = 0
        self._records: list[bytes] = []

    @property
    def unsent_size(self) -> int:
        """Bytes that wait for `data_to_send`."""
        return self._frames_size

    @property
    def leftover(self) -> bytes:
        """What has arrived behind the last whole record."""
        return self._reader.leftover

    def receive(self, data: bytes) -> Iterator[bytes]:
        """The contents of the records that are whole now; see RecordReader."""
        return self._reader.receive(data)

    def peer_rekeyed(self) -> None:
        """The peer's next record is under a new key."""
        self._reader.rekey()

    def put(self, frames: list[bytes]) -> None:
        """These go out behind what waits already."""
        self._frames += frames
        self._frames_size += sum(map(len, frames))

    def data_to_send(self, now: float, *, ending: bool) -> bytes:
        """Everything that waits, as whole records; `ending`: a REKEY would come behind the last word."""
        if not self._frames:
            return b""
        if self._writer.rekey_due(now) and not ending:
            self._frames.append(frame(Type.REKEY, b""))
            self._pack()
            self._writer.rekey(now)
        else:
            self._pack()
        data = b"".join(self._records)
        self._records.clear()
        return data

    def _pack(self) -> None:
        content: list[bytes] = []
        size = 0
        for part in self._frames:
            if size + len(part) > RECORD_CONTENT_MAX:
                self._records.append(self._writer.write(b"".join(content)))
                content, size = [], 0
            content.append(part)
            size += len(part)
        self._records.append(self._writer.write(b"".join(content)))
        self._frames.clear()
        self._frames_size = 0
