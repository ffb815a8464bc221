"""How far the bytes of a video file are whole: where it was cut off or overwritten, told from its container alone."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Read = Callable[[int, int], bytes]  # so many bytes from a place in the file; fewer at its end


class ContainerEnd(NamedTuple):
    """What a walk over a container found.

    Attributes:
        until: bytes from the start of the file in which nothing is missing.
        promised: whether that is all that the container announced; None where it announces nothing.
        ragged: whether the last picture before that may be a part of one.
        seconds: that it announced, where ffmpeg does not believe a header that disagrees with the file's size.
    """

    until: int
    promised: bool | None
    ragged: bool = False
    seconds: float = 0.0


def find_end(path: Path, kind: str) -> ContainerEnd:
    """How far a file is whole. Of a container that is not known here all of it is, and nothing was promised.

    Args:
        path: video file.
        kind: ffmpeg's names of the container, such as 'matroska,webm'.
    """
    size = path.stat().st_size
    walk = next((_WALKS[name] for name in kind.split(",") if name in _WALKS), None)
    if walk is None:
        return ContainerEnd(size, None)
    with path.open("rb", buffering=0) as file:

        def read(place: int, count: int) -> bytes:
            if place >= size:  # damaged numbers lead anywhere
                return b""
            file.seek(place)
            return file.read(count)

        found = walk(read, size)
    return found._replace(until=min(found.until, size))


class FileStart(io.RawIOBase):
    """The first `length` bytes of a file, to be read as if there were no more.

    Args:
        path: of the file.
        length: bytes.
    """

    def __init__(self, path: Path, length: int):
        self._file, self._length, self.name = path.open("rb"), length, f"file:{path}"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        part = self._file.read(max(0, min(len(buffer), self._length - self._file.tell())))
        buffer[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            return self._file.seek(self._length + offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


_SEGMENT, _CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_EBML_ELEMENTS = re.compile(  # RFC 9559: what may stand in a file, in a segment and in a cluster
    rb"\x1a\x45\xdf\xa3|\x11\x4d\x9b\x74|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1c\x53\xbb\x6b|\x19\x41\xa4\x69|"
    rb"\x10\x43\xa7\x70|\x12\x54\xc3\x67|\xec|\xbf|\xe7|\xa3|\xa0|\xa7|\xab|\x58\x54|\xaf"
)


def _matroska(read: Read, size: int) -> ContainerEnd:
    """Elements of the segment and its clusters one after the other: cut files end inside one of them."""
    place, end = 0, None
    while place < size and (end is None or place < end):
        head = read(place, 12).ljust(12, b"\0")
        width = 9 - head[0].bit_length()
        more = 9 - head[min(width, 4)].bit_length()
        if width > 4 or more > 8:
            return ContainerEnd(place, False, place + 12 < size)
        name, most = head[:width], (1 << 7 * more) - 1
        body, length = place + width + more, int.from_bytes(head[width : width + more], "big") & most
        if name == _SEGMENT:
            end = None if length == most else body + length
        elif name != _CLUSTER:
            numberless = name == b"\xa3" and not head[width + more]  # a picture or sound of track 0
            if not _EBML_ELEMENTS.fullmatch(name) or length == most or numberless:
                return ContainerEnd(place, False, True)
            if body + length > size:
                return ContainerEnd(place, False)
            body += length
        place = body
    return ContainerEnd(min(place, size), None if end is None else place >= end)


def _avi(read: Read, size: int) -> ContainerEnd:
    """Chunks of the movie one after the other, whatever the lists around them say of their sizes."""
    place, end = 0, 0
    while place < size:
        head = read(place, 12).ljust(12, b"\0")
        name, length = head[:4], int.from_bytes(head[4:8], "little")
        if name == b"RIFF":
            end = place + 8 + length if 0 < length < 0xFFFFFFFF else 0  # 0 where the program did not come to its end
        elif end and place >= end:
            break  # what stands behind the last RIFF is none of our business
        if name == b"RIFF" or (name == b"LIST" and head[8:] in (b"movi", b"rec ")):
            place += 12
            continue
        following = place + 8 + length + length % 2
        is_chunk = re.fullmatch(rb"[0-9A-Za-z ]{4}", name)
        if not is_chunk or following > size + length % 2:
            return ContainerEnd(place, False, not is_chunk and place + 8 < size)
        place = following
    return ContainerEnd(min(place, size), place >= end if end else None)


def _asf(read: Read, size: int) -> ContainerEnd:
    """Data packets of one size, each of which begins as the first one does."""
    header = int.from_bytes(read(16, 8), "little")
    properties = read(0, min(header, 1 << 16)).partition(bytes.fromhex("A1DCAB8C47A9CF118EE400C00C205365"))[2]
    if len(properties) < 84:
        return ContainerEnd(size, None)
    count, ticks, _, preroll_ms, flags, length, most = struct.unpack_from("<4Q3I", properties, 40)
    if not length or length != most or flags & 1:  # of a broadcast the header knows no number
        return ContainerEnd(size, None)
    first, seconds = header + 50, ticks / 1e7 - preroll_ms / 1e3
    begin = read(first, 3)
    for number in range(count):
        place = first + number * length
        if place < size < place + length:
            return ContainerEnd(size, False, True, seconds)  # small pictures that are whole lie in it
        if place >= size or read(place, 3) != begin:
            return ContainerEnd(place, False, place < size, seconds)
    return ContainerEnd(size, True)


_SOUND = (b"\x01vorbis", b"OpusHead", b"Speex", b"\x7fFLAC", b"fishead")  # or, the last one, no stream of its own


def _ogg(read: Read, size: int) -> ContainerEnd:
    """Pages, which each stream numbers; the last one of a stream says that it is."""
    place, numbers, open_streams = 0, {}, set()
    while place < size:
        head = read(place, 290)
        lengths = head[26] if len(head) > 26 else 0
        flags, stream, number = head[5:6], head[14:18], int.from_bytes(head[18:22], "little")
        begins = bool(flags and flags[0] & 2)
        following = place + 27 + lengths + sum(head[27 : 27 + lengths])
        if following > size or _ogg_sum(read(place, following - place)) != head[22:26]:
            return ContainerEnd(place, not open_streams)
        if not begins and numbers.get(stream, number) != number:
            return ContainerEnd(place, not open_streams)
        numbers[stream] = number + 1
        if begins and not head[27 + lengths :].startswith(_SOUND):
            open_streams.add(stream)
        if flags[0] & 4:
            open_streams.discard(stream)
        place = following
    return ContainerEnd(place, not open_streams)


_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_sum(page: bytes) -> bytes:
    """The checksum that an Ogg page should carry, which is zlib's of all bits in the other order."""
    page = page[:22] + bytes(4) + page[26:]
    return (zlib.crc32(page.translate(_TURNED), 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big").translate(_TURNED)


def _gif(read: Read, size: int) -> ContainerEnd:
    """Pictures, up to the sign that no more follow."""
    place = until = 13 + _colours(read(10, 1))
    while place < size:
        head = read(place, 10)
        if head[:1] == b";":
            return ContainerEnd(size, True)
        careless = len(head) - len(head.lstrip(b"\0"))  # zeros that some programs write, and all skip
        if 0 < careless < len(head):
            place += careless
            continue
        if head[:1] == b"!":
            place += 2
        elif head[:1] == b"," and len(head) == 10:
            place += 11 + _colours(head[9:])
        else:
            return ContainerEnd(until, False, True)
        while (length := read(place, 1)) not in (b"\0", b""):
            place += 1 + length[0]
        place += 1
        if place > size:
            break
        until = place if head[:1] == b"," else until
    return ContainerEnd(until, False)


def _colours(flags: bytes) -> int:
    """Bytes of the colour table that a GIF's flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _flv(read: Read, size: int) -> ContainerEnd:
    """Tags; nothing says how many."""
    place = int.from_bytes(read(5, 4), "big") + 4
    while place < size:
        head = read(place, 4)
        following = place + 15 + int.from_bytes(head[1:4], "big")
        is_tag = head[0] & 0x1F in (8, 9, 18)
        if not is_tag or following > size + 4:
            return ContainerEnd(place, False, not is_tag)
        place = following
    return ContainerEnd(size, None)


def _fragments(read: Read, size: int) -> ContainerEnd:
    """Boxes of a fragmented MP4; what is whole in the last one is left to the demuxer."""
    place, fragmented = 0, False
    while place < size:
        head = read(place, 16).ljust(16, b"\0")
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        length = int.from_bytes(head[8:], "big") if length == 1 else length or size - place
        fragmented = fragmented or name == b"moof"
        if fragmented and not re.fullmatch(rb"[0-9A-Za-z ]{4}", name):
            return ContainerEnd(place, False)
        if length < 8 or place + length > size:
            return ContainerEnd(size, False if fragmented else None)
        place += length
    return ContainerEnd(size, None)


def _transport(read: Read, size: int) -> ContainerEnd:
    """Packets of one size, each of which begins with the same sign."""
    begin = read(0, 5 * 204)
    for length, offset in ((188, 0), (192, 4), (204, 0)):
        if begin[offset::length].count(b"G") == len(begin[offset::length]) > 1:
            break
    else:
        return ContainerEnd(size, None)
    for place in range(0, size, 4096 * length):
        signs = read(place, 4096 * length)[offset::length]
        good = len(signs) - len(signs.lstrip(b"G"))
        if good < len(signs):
            return ContainerEnd(place + good * length, False)
    return ContainerEnd(size, None)


def _mxf(read: Read, size: int) -> ContainerEnd:
    """Keys, lengths and values; the header tells how many frames they are."""
    place = 0
    while place < size:
        head = read(place, 25).ljust(25, b"\0")
        long = head[16] & 0x7F if head[16] & 0x80 else 0
        following = place + 17 + long + (int.from_bytes(head[17 : 17 + long], "big") if long else head[16])
        is_key = head.startswith(b"\x06\x0e\x2b\x34") and long <= 8
        if not is_key or following > size:
            return ContainerEnd(place, False, not is_key)
        place = following
    return ContainerEnd(size, None)


_WALKS = {
    "matroska": _matroska, "avi": _avi, "asf": _asf, "ogg": _ogg, "gif": _gif, "flv": _flv, "mxf": _mxf,
    "mp4": _fragments,
    "mpegts": _transport,
}  # fmt: skip
