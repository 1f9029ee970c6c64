"""A source -> its first bytes, and a source that still has them.

What unpacks may hand out a single byte first, and by it no shape is told; so it is read on until
BUFFER_BYTES are there, or the file is at its end. Damage on the way is raised only where it stands:
the records in front of it are read. What the bytes say is not known here.
"""

import io
from typing import Any

from amazon_desc.data.reading.files.sources import BUFFER_BYTES, Source


class _Again(io.RawIOBase):
    """Bytes that were read, then the error that ended them or what the stream has left."""

    def __init__(self, start: bytes, error: Exception | None, stream: io.BufferedReader) -> None:
        self._start, self._error, self._stream = start, error, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._start:
            if self._error is not None:
                raise self._error
            return self._stream.readinto1(buffer)
        size = min(len(buffer), len(self._start))
        buffer[:size], self._start = self._start[:size], self._start[size:]
        return size


def start_of(source: Source) -> tuple[bytes, bool, Source]:
    """Returns the first BUFFER_BYTES or all of a source, whether it is cut, and what begins there.

    It is cut, too, where damage comes sooner.
    """
    start = source.stream.peek(BUFFER_BYTES)
    if len(start) >= BUFFER_BYTES:
        return start, True, source
    start, error = b"", None
    try:
        while len(start) < BUFFER_BYTES and (part := source.stream.read1(BUFFER_BYTES)):
            start += part
    except Exception as raised:
        error = raised
    again = io.BufferedReader(_Again(start, error, source.stream), BUFFER_BYTES)
    is_cut = error is not None or len(start) >= BUFFER_BYTES
    return start, is_cut, source._replace(stream=again)
