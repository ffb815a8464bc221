"""What a video file holds before anything is decoded: its stream of pictures, and the packets of it as they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from videomolmo.errors import BadInput


class Packet(NamedTuple):
    """What the index keeps of one packet; `order` counts packets as they lie in the file."""

    order: int
    pts: int | None
    dts: int | None
    is_key: bool
    is_hidden: bool
    is_damaged: bool


def open_stream(path: Path) -> tuple[Any, Any]:
    """Opened container and its video stream for a file; cover pictures of music do not count as video."""
    import av

    try:
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.FFmpegError as error:
        raise BadInput(
            f"{path}: not a video, or cut off before its index ({reason(error)}); expected a whole video file"
        ) from None
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    kind, why = container.format.name, None
    if kind == "tty" or not (streams or container.streams.audio):
        why = "not a video; expected a video file such as an .mp4"
    elif not streams:
        why = "has sound but no picture; expected a file with a video stream"
    elif kind.endswith("_pipe") or kind in ("image2", "ico"):
        why = "a single picture; expected a video, or a folder of pictures, which may hold only one"
    if why:
        container.close()
        raise BadInput(f"{path}: {why}")
    return container, streams[0]


def scan(container: Any, stream: Any) -> tuple[list[Packet], str | None]:
    """All packets of the stream as they lie in the file, without decoding, and why reading ended early if it did."""
    import av

    packets, failure = [], None
    keyless = container.format.name in {"gif", "apng"}  # each picture paints over the one before
    try:
        for packet in container.demux(stream):
            if packet.size:
                is_key = packet.is_keyframe and not (keyless and packets)
                seen = (packet.pts, packet.dts, is_key, packet.is_discard, packet.is_corrupt)
                packets.append(Packet(len(packets), *seen))
    except av.FFmpegError as error:
        failure = reason(error)
    if not any(not packet.is_hidden for packet in packets):
        raise BadInput(f"{container.name.removeprefix('file:')}: has no frame; expected a video with at least one")
    return packets, failure


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
