"""Packed bytes -> the bytes in them, told by how they begin and never by a name.

In comes an open file, out goes a stream: of gzip, bzip2, xz and Zstandard, and of anything else the
file itself. What is read is unpacked a part at a time, so that a few bytes that unpack to gigabytes
fill no memory. Archives of several files are opened in sources.py.
"""

import bz2
import gzip
import io
import lzma
from typing import Any

BUFFER_BYTES = 1 << 18
PACKED = (".gz", ".bz2", ".xz", ".zst")
"""how the names of packed files end, as a rule"""
WORDS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}

_BEGINNINGS = {
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
}
_READ_BYTES = 1 << 16
# What xz needs grows with a number in the file: xz itself asks for 65 MiB at its highest level.
_XZ_BYTES = 256 << 20


def packing_of(start: bytes) -> str | None:
    """Returns which of PACKED a file that starts like this is; None: it is not packed.

    b"\\x1f\\x8b\\x08" -> ".gz"; b'{"title"' -> None
    """
    for beginning, suffix in _BEGINNINGS.items():
        if start.startswith(beginning):
            # these three letters may begin a title: after them bzip2 has a digit and a mark
            if suffix == ".bz2" and start[4:10] not in (b"1AY&SY", b"\x17rE8P\x90"):
                return None
            return suffix
    return None


def without_packing(name: str) -> str:
    """Returns a name in lower case without what says that it is packed: A.CSV.gz -> a.csv"""
    lowered = name.lower()
    for suffix in PACKED:
        lowered = lowered.removesuffix(suffix)
    return lowered


def unpacked(file: Any, packing: str | None) -> Any:
    """Returns a raw stream of what is packed in an open file.

    Raises:
        OSError, EOFError, zlib.error: the bytes are damaged or cut short; as they are read.
    """
    if packing == ".gz":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if packing == ".bz2":
        return _Parts(file, bz2.BZ2Decompressor)
    if packing == ".xz":
        return _Parts(file, lambda: lzma.LZMADecompressor(memlimit=_XZ_BYTES))
    if packing == ".zst":
        return _Zstandard(file)
    return file


class _Parts(io.RawIOBase):
    """Unpacks parts that lie one after the other, with a decompressor of Python's for each."""

    def __init__(self, file: Any, decompressor: Any) -> None:
        self._file, self._new = file, decompressor
        self._part = decompressor()
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._part.eof:
                self._rest = (self._part.unused_data or self._rest).lstrip(b"\0")  # xz pads
                while not self._rest:
                    more = self._file.read(_READ_BYTES)
                    if not more:
                        return 0
                    self._rest = more.lstrip(b"\0")
                self._part = self._new()
            elif self._part.needs_input and not self._rest:
                self._rest = self._file.read(_READ_BYTES)
                if not self._rest:
                    raise EOFError("it ends before what is packed in it does")
            data = self._unpack(len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _unpack(self, size: int) -> bytes:
        given, self._rest = self._rest, b""
        try:
            return self._part.decompress(given, size)
        except lzma.LZMAError as error:
            raise OSError(str(error)) from error


class _Zstandard(io.RawIOBase):
    """Arrow's reader of Zstandard, which bounds the memory of a part to 128 MiB."""

    def __init__(self, file: Any) -> None:
        import pyarrow

        self._arrow = pyarrow
        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(min(len(buffer), _READ_BYTES))
        except self._arrow.ArrowException as error:
            raise OSError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)
