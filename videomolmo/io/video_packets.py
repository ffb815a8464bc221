"""What a video file holds before anything is decoded: its stream, its packets, and how its pictures are turned."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from videomolmo.errors import BadInput
from videomolmo.io.video_containers import ContainerEnd, FileStart, find_end


class Orientation(NamedTuple):
    """What a display matrix does to a stored picture: change rows and columns, then mirror.

    Attributes:
        swaps: rows become columns.
        right_to_left, upside_down: what is mirrored after that.
    """

    swaps: bool = False
    right_to_left: bool = False
    upside_down: bool = False

    @classmethod
    def of(cls, frame: Any) -> Orientation:
        """That of a decoded frame; of a matrix that turns by other than quarters, the nearest."""
        matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        if matrix is None:
            return cls()
        (x_of_x, y_of_x), (x_of_y, y_of_y) = np.frombuffer(matrix, np.int32, 9).reshape(3, 3)[:2, :2].tolist()
        if abs(x_of_x) + abs(y_of_y) >= abs(y_of_x) + abs(x_of_y):
            return cls(False, x_of_x < 0, y_of_y < 0)
        return cls(True, x_of_y < 0, y_of_x < 0)

    def apply(self, image: UInt8[np.ndarray, "rows columns 3"]) -> UInt8[np.ndarray, "height width 3"]:
        """The picture as it is shown, a view of the stored one."""
        image = image.swapaxes(0, 1) if self.swaps else image
        return image[:: -1 if self.upside_down else 1, :: -1 if self.right_to_left else 1]


def pixel_aspect(stream: Any, orientation: Orientation) -> Fraction:
    """Width of a pixel over its height, as shown, for a stream and how its pictures are turned."""
    aspect = stream.sample_aspect_ratio
    if not aspect or aspect < 0:
        return Fraction(1)
    return 1 / aspect if orientation.swaps else Fraction(aspect)


_TELL_DURATION = {"matroska,webm", "asf", "flv", "mxf", "ivf"}  # of others ffmpeg guesses it from the file's end
_FEW = 8  # times, from which no usual step can be told
_PAUSE = 9.5  # steps, longer than encoders let pictures wait for each other
_HOLE = 1.75  # of the usual step; film at 24 frames shown at 60 steps by 1 and 1.5


class Packet(NamedTuple):
    """What the index keeps of one packet; `order` counts packets as they lie in the file, `pos` is where, in bytes."""

    order: int
    pos: int
    pts: int | None
    dts: int | None
    is_key: bool
    is_hidden: bool
    is_damaged: bool


# Formats that name other files, places on a network, or programs: a stranger's file would show what is not in it.
_REFERRING = {"concat", "hls", "dash", "imf", "sdp", "rtp", "rtsp", "sap", "avisynth", "vapoursynth", "lavfi"}
_LISTS = (b"#EXTM3U", b"ffconcat", b"v=0", b"<?xml", b"<MPD")  # how most of them begin


@cache
def _formats() -> str:
    """Names of all formats of files that hold their pictures themselves, as ffmpeg takes them."""
    import av

    return ",".join(sorted(av.formats_available - _REFERRING))


def open_container(source: str | FileStart) -> Any:
    """What PyAV opens: "file:" and a path, or a file; never a list of other files.

    Raises:
        av.FFmpegError: it cannot be opened, or is such a list.
    """
    import av

    return av.open(source, options={"format_whitelist": _formats()}, metadata_errors="replace")


def open_stream(path: Path, until: int | None = None) -> tuple[Any, Any]:
    """Opened container and its video stream for a file, or for its first `until` bytes; cover pictures do not count."""
    import av

    # With a log callback (torchvision up to 0.23 sets one at import) a decoding thread that logs waits for Python while
    # Python waits for that thread to end: closing a video hangs.
    av.logging.set_level(None)
    try:
        container = open_container(f"file:{path}" if until is None else FileStart(path, until))
    except av.FFmpegError as error:
        with suppress(OSError), path.open("rb") as file:
            if file.read(16).lstrip().startswith(_LISTS):
                raise BadInput(f"{path}: a list of other files, not a video; give the video itself") from None
        raise BadInput(
            f"{path}: not a video, or cut off before its index ({reason(error)}); expected a whole video file"
        ) from None
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    kind, why = container.format.name, None
    if kind == "tty" or not (streams or container.streams.audio):
        why = "not a video; expected a video file such as an .mp4"
    elif streams and streams[0].codec_context is None:
        why = "its pictures are in a code that is not known here; re-encode it with another program"
    elif not streams:
        why = "has sound but no picture; expected a file with a video stream"
    elif kind == "webp_pipe" and _has_animation(path):
        why = "an animated WebP, which is not read; make a GIF, PNG (APNG) or video of it with another program"
    elif kind.endswith("_pipe") or kind in ("image2", "ico"):
        why = "a single picture; expected a video, or a folder of pictures, which may hold only one"
    if why:
        container.close()
        raise BadInput(f"{path}: {why}")
    return container, streams[0]


def _has_animation(path: Path) -> bool:
    """Whether a WebP file says that it holds several pictures: a bit of the chunk it begins with."""
    with path.open("rb") as file:
        head = file.read(21)
    return len(head) == 21 and head[12:16] == b"VP8X" and bool(head[20] & 2)


class Survey(NamedTuple):
    """What a pass over all packets of a file found.

    Attributes:
        packets: of the stream of pictures, as they lie in the file.
        count: how many of them are whole: all, or all but the last one.
        until: bytes of the file after which it is not read, because its container is broken there; None for all.
        promised: frames that the header announces; 0 where it says nothing to be relied on.
        reached: whether the packets reach what it announces.
        cut: why frames are missing after the last packet, or None.
    """

    packets: list[Packet]
    count: int
    until: int | None
    promised: int
    reached: bool
    cut: str | None


def survey(path: Path) -> tuple[Any, Any, Survey]:
    """The opened container of a file, its stream of pictures, and what a pass over the packets found."""
    container, stream, size = *open_stream(path), path.stat().st_size
    kind = container.format.name
    packets, end_s, cut = _scan(container, stream)
    end, until, broken = find_end(path, kind), None, False
    if end.promised is False and _loses_frames(stream, packets, end):
        behind, broken = sum(packet.pos >= end.until for packet in packets), True
        cut = cut or ("the file is damaged" if behind > 1 else "the file ends early")
        if end.until < size:
            until = end.until
            container.close()
            container, stream = open_stream(path, until)
            packets, _, _ = _scan(container, stream)
    promised, _ = _promise(stream, packets, end)
    count, counted = len(packets) - (packets[-1].is_damaged or (broken and end.ragged)), 0
    if "mp4" in kind:
        counted = len(stream.index_entries)
        promised = 0 if end.promised is False else max(promised, counted)
    elif kind in ("mxf", "ivf"):
        counted = promised
    in_mid_packet = kind == "mpegts" and all(size % length for length in (188, 192, 204))
    early = end.promised is None and _ends_before_its_duration(container, stream, packets, end_s)
    if cut is None and (early or in_mid_packet or count < max(len(packets), counted)):
        cut = "the file ends early"
    reached = promised > 0 and _reaches(stream, packets[:count], end)
    return container, stream, Survey(packets, count, until, promised, reached, cut)


def _scan(container: Any, stream: Any) -> tuple[list[Packet], float, str | None]:
    """All packets of the stream as they lie in the file, without decoding.

    Returns:
        The packets; the second in which the last packet of any stream ends; why reading ended early if it did.
    """
    import av

    packets, end_s, failure = [], 0.0, None
    keyless = container.format.name in {"gif", "apng"}  # each picture paints over the one before
    is_jpeg, jpeg_ends = stream.codec_context.codec.canonical_name == "mjpeg", False  # cameras leave the end mark out
    try:
        for packet in container.demux():
            begins = packet.pts if packet.dts is None else packet.dts
            if begins is not None and packet.size:
                end_s = max(end_s, float((max(begins, packet.pts or 0) + (packet.duration or 0)) * packet.time_base))
            if packet.size and packet.stream.index == stream.index:
                is_key = packet.is_keyframe and not (keyless and packets)
                ends = is_jpeg and bytes(memoryview(packet)[-16:]).rstrip(b"\0").endswith(b"\xff\xd9")
                jpeg_ends = jpeg_ends or (ends and not packets)
                is_damaged = packet.is_corrupt or (jpeg_ends and not ends)
                pos = -1 if packet.pos is None else packet.pos
                seen = (pos, packet.pts, packet.dts, is_key, packet.is_discard, is_damaged)
                packets.append(Packet(len(packets), *seen))
    except av.FFmpegError as error:
        failure = reason(error)
    if not any(not packet.is_hidden for packet in packets):
        raise BadInput(f"{container.name.removeprefix('file:')}: has no frame; expected a video with at least one")
    return packets, end_s, failure


def _promise(stream: Any, packets: list[Packet], end: ContainerEnd) -> tuple[int, float]:
    """Frames that the header announces, and the second of their end where that is how; 0 for what it does not tell."""
    container, kind = stream.container, stream.container.format.name
    if kind == "avi" and stream.frames < 1 << 30:  # which stands for a number that was never filled in
        return stream.frames - max(0, (packets[-1].dts or 0) + 1 - len(packets)), 0.0  # it counts empty places too
    rate = stream.average_rate or stream.guessed_rate
    if "mp4" in kind:
        return 0 if end.promised is False else stream.frames, 0.0  # a fragment tells nothing of the next one
    if kind not in _TELL_DURATION or not rate:
        return 0, 0.0
    ends_s = container.duration / 1e6 if container.duration else end.seconds
    if re.fullmatch(r"\d+:\d\d:\d\d\.\d+", own := stream.metadata.get("DURATION", "")):  # the sound's may be longer
        ends_s = sum(float(part) * unit for part, unit in zip(own.split(":"), (3600, 60, 1), strict=True))
    return max(0, round((ends_s - (container.start_time or 0) / 1e6) * float(rate))), ends_s


def _reaches(stream: Any, packets: list[Packet], end: ContainerEnd) -> bool:
    """Whether packets go on to the end that the header announces, if it does, and are as many."""
    promised, ends_s = _promise(stream, packets, end) if packets else (0, 0.0)
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    if ends_s and len(times) > 1 and (times[-1] + 1.5 * _usual_step(times)) * float(stream.time_base) < ends_s:
        return False
    return len(packets) >= promised > 0


def _ends_before_its_duration(container: Any, stream: Any, packets: list[Packet], end_s: float) -> bool:
    """Whether the header tells of more than one frame after the last packet of every stream."""
    if container.format.name not in _TELL_DURATION or not container.duration:
        return False
    times = sorted({packet.pts for packet in packets if packet.pts is not None})
    longest_s = max((b - a for a, b in pairwise(times)), default=0) * float(stream.time_base)
    return container.duration / 1e6 - end_s > 1.5 * longest_s


def _loses_frames(stream: Any, packets: list[Packet], end: ContainerEnd) -> bool:
    """Whether frames are missing where a container breaks, or whether it is only written carelessly."""
    before = [packet for packet in packets if packet.pos < end.until]
    behind = len(packets) - len(before)
    if stream.container.format.name in ("ogg", "gif") or behind == 1:
        return True
    if behind == 0:
        return not _reaches(stream, packets, end)
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    sure = before[-1].dts if before else None
    lost = len(before_hole(times, -math.inf if sure is None else sure)) < len(times)
    return lost or len(packets) < (stream.frames or _promise(stream, packets, end)[0])


def before_hole(times: list[int], sure: float, max_step: float = math.inf, pauses: bool = False) -> list[int]:
    """Times shown up to the first one, later than `sure`, before which a frame must be missing.

    Args:
        times: in order, in any unit.
        sure: none is missing up to here.
        max_step: from one frame to the next, as far as a header tells.
        pauses: whether a long time without a frame may be meant.
    """
    step = min(_usual_step(times), max_step if len(times) < _FEW else math.inf)
    longest = _PAUSE * step if pauses else math.inf
    for number, (a, b) in enumerate(pairwise(times), start=1):
        if b > sure and _HOLE * step < b - a < longest:
            return times[:number]
    return times


def _usual_step(times: list[int]) -> float:
    """From one frame to the next, a short one where it varies."""
    return float(np.quantile(np.diff(times), 0.1)) if len(times) > 1 else math.inf


def has_leading_pictures(packets: list[Packet]) -> bool:
    """Whether a picture follows a key frame in the file and precedes it on screen."""
    key_pts = None
    for packet in packets:
        if packet.is_key:
            key_pts = packet.pts
        elif None not in (packet.pts, key_pts) and packet.pts < key_pts:
            return True
    return False


def reason(error: Exception) -> str:
    """The error in a few words, without the file's name."""
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
