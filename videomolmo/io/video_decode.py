"""Exact frames of a video file: an index of presentation times first, then seek, decode forward, and check.

Frame numbers are those of what a player shows. One pass over the packets, without decoding, lists the times shown;
a frame is then reached from the key frame before it, and every frame that comes out is compared with the list. When a
seek did not lead where the list says, decoding starts again from the first packet, slowly and surely: only a failure
there is believed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain, dropwhile, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from videomolmo.errors import BadInput
from videomolmo.io.video_packets import (
    Orientation,
    Packet,
    Survey,
    before_hole,
    has_leading_pictures,
    open_stream,
    pixel_aspect,
    reason,
    survey,
)

# Codecs in which each packet shows exactly one frame, so that counting packets counts frames.
_ONE_FRAME_A_PACKET = {"h264", "hevc", "vvc", "vp9", "av1", "mjpeg", "mpeg2video", "prores", "dnxhd", "ffv1", "png"}
_STREAMED = ("mpegts", "mpeg")  # containers in which nothing tells where the video ends
_NEAR = 8  # frames: decoding this far ahead is cheaper than a seek
_SAME_RATE = 0.02  # times that are off by this share of the header's rate are its rounding
_PREDICTED = (2, 3, 4)  # ffmpeg's numbers of kinds of pictures that others precede: P, B and S
_KEPT = 4  # decoded frames kept for whoever asks again
_REMEDY = "re-encode the file, for example `ffmpeg -i in -c:v libx264 out.mp4`"


class BrokenVideo(BadInput):
    """A frame at or after the place where the video stops to decode."""


class PyAVReader:
    """Frames of a video file by number, exact whatever the group of pictures.

    Args:
        path: video file.

    Raises:
        BadInput: the file is no video, has no frame, or its first frame does not decode.
    """

    def __init__(self, path: Path):
        from av.video.reformatter import VideoReformatter

        self.path, self._converter = path, VideoReformatter()  # kept: a new one for each frame doubles the time
        self.warning: str | None = None
        self._broken: int | None = None
        self._failure, self._careful, self._by_count, self._draining = "", False, False, False
        self._cache: dict[int, Any] = {}
        self._container, self._stream, self._survey = survey(path)
        packets = self._survey.packets
        self._total = sum(not packet.is_hidden for packet in packets)
        self._orders = {packet.pts: packet.order for packet in packets if packet.pts is not None}
        # keys by time: the pictures that follow a key frame in the file and precede it on screen need the key before
        self._keys = sorted((p for p in packets if p.is_key and p.pts is not None), key=lambda packet: packet.pts)
        self.open_gop = has_leading_pictures(packets)
        if self._packets_tell_frames(packets):
            self._pts = self._shown_times(self._survey)
            self._drop_undecodable_head()
        else:
            self._index_by_decoding(self._survey)
        first = self._cache[0]
        self._size = (first.height, first.width)
        self.orientation = Orientation.of(first)
        self.height, self.width = self._size[::-1] if self.orientation.swaps else self._size
        self.pixel_aspect = pixel_aspect(self._stream, self.orientation)
        self.times_s, self.fps = self._times()
        self._needs = self._last_needed()

    def __len__(self) -> int:
        return len(self._pts)

    def read(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Frame `number` as a player shows it, turned and mirrored as its display matrix says.

        A frame of another size than the first is scaled to the first, as players do.

        Raises:
            BrokenVideo: the video does not decode as far as this frame.
        """
        self._find(number)
        height, width = self._size
        image = self._converter.reformat(self._cache[number], width, height, "rgb24").to_ndarray()
        return np.ascontiguousarray(self.orientation.apply(image))

    def close(self) -> None:
        """Release the file and the decoder."""
        self._frames = iter(())
        self._cache.clear()
        self._container.close()

    @property
    def format(self) -> str:
        """ffmpeg's name of the container, such as 'mpegts'."""
        return self._container.format.name

    def key_numbers(self) -> list[int]:
        """Numbers of the frames from which decoding can begin, as far as they are known."""
        numbers = {pts: number for number, pts in enumerate(self._pts)}
        return [numbers[key.pts] for key in self._keys if key.pts in numbers and not self._by_count]

    @property
    def _codec(self) -> str:
        return self._stream.codec_context.codec.canonical_name

    def _packets_tell_frames(self, packets: list[Packet]) -> bool:
        """Whether the packets' times are the frames' times: all there, each once, on one timeline, and in its order."""
        codec = self._codec
        if codec not in _ONE_FRAME_A_PACKET and not (codec == "mpeg4" and "mp4" in self.format):
            return False
        pts = [packet.pts for packet in packets if not packet.is_hidden]
        dts = [packet.dts for packet in packets if packet.dts is not None]
        all_told = None not in pts and len(set(pts)) == len(pts) and all(a <= b for a, b in pairwise(dts))
        return all_told and not self._only_decoding_times(packets)

    def _only_decoding_times(self, packets: list[Packet]) -> bool:
        """Whether the container tells the order of decoding only, of pictures that are shown in another."""
        pts = [packet.pts for packet in packets if packet.pts is not None]
        return self.format == "avi" or bool(self._stream.codec_context.has_b_frames and pts == sorted(pts))

    def _shown_times(self, found: Survey) -> list[int]:
        """Times shown in order; of a file that ends early only those before the first time that may be missing."""
        times, doubtful = sorted(p.pts for p in found.packets[: found.count] if not p.is_hidden), found.packets[-1]
        if self.format in _STREAMED:
            doubtful = next((packet for packet in found.packets if packet.is_damaged), doubtful)
        elif not found.cut:
            return times
        # a missing packet is decoded after the ones we have, and shown no earlier than it is decoded
        sure = times[0] if doubtful.dts is None else doubtful.dts
        if self.format == "mxf":  # it keeps times of decoding; those of the last pictures shown are guessed
            times = [time for time in times if time <= sure]
        shown = before_hole(times, sure, self._step(), pauses=not found.cut)
        if found.cut or len(shown) < len(times):
            self._warn(len(shown), found.cut or "a frame is missing")
        return shown

    def _step(self) -> float:
        """From one frame to the next by the header's rate, in the stream's unit."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return 1 / float(rate * self._stream.time_base) if rate else math.inf

    def _warn(self, shown: int, why: str) -> None:
        """Say that only `shown` frames were there, if it is so."""
        if self._survey.reached and shown >= min(self._total, self._survey.promised):
            return  # cut behind its last frame
        total = self._survey.promised or f"{max(self._total, shown + 1)} or more"
        self.warning = f"decoded {shown} of {total} frames, then: {why}"
        self._total = max(self._total, self._survey.promised)

    def _say_left_out(self, frames: int) -> None:
        """Say that frames are missing at the start, but for streams, which anybody may begin to receive anywhere."""
        if frames and self.format not in _STREAMED:
            self.warning = self.warning or f"left out the first {frames} frames, which do not decode"

    def _drop_undecodable_head(self) -> None:
        """Leave out what no player shows: pictures before the first key frame whose references were cut away."""
        self._restart(0)
        for frame in self._frames:
            number = bisect_left(self._pts, frame.pts) if frame.pts is not None else len(self._pts)
            if number < len(self._pts) and self._pts[number] == frame.pts and not frame.is_corrupt:
                if self._keys and frame.pts > max(self._pts[0], min(self._keys, key=lambda key: key.order).pts):
                    break  # the first key frame itself is missing
                self._pts = self._pts[number:]
                self._total -= number
                if not self._survey.packets[0].is_key:
                    self._say_left_out(number)
                self._next = 1
                self._cache[0] = frame
                return
        raise BadInput(f"{self.path}: its first frame does not decode ({self._failure or 'damaged'}); {_REMEDY}")

    def _index_by_decoding(self, found: Survey) -> None:
        """Index of a file whose packets do not tell: decode it once and keep each frame's time if it has one."""
        self._careful, self._by_count, self._pts = True, True, []
        self._restart(0)
        first, times, sure = None, [], 0
        for frame in self._frames:
            if frame.is_corrupt:
                self._failure = "a damaged frame"
                break
            first = first or frame
            times.append(frame.pts)
            sure += not self._draining
        if first is None:
            raise BadInput(f"{self.path}: no frame of it decodes ({self._failure or 'no picture data'}); {_REMEDY}")
        decoded, why, sure = len(times), self._failure or found.cut, max(1, sure)
        self._by_count = None in times or any(a >= b for a, b in pairwise(times))
        if self._by_count or self._only_decoding_times(found.packets):
            times = (
                times[:sure] if why else times
            )  # the others waited for pictures before them, perhaps the missing ones
        elif why or self.format in _STREAMED:
            times = before_hole(times, times[sure - 1], self._step(), pauses=not why)
        self._say_left_out(self._undecodable)
        if why or len(times) < decoded:
            self._warn(len(times), why or "a frame is missing")
        self._pts, self._stored = times, None
        if self._by_count:
            self._pts = list(range(len(times)))
            told = zip(*((p.dts, p.pts) for p in found.packets[: found.count]), strict=True)
            stored = sorted({*next((each for each in told if None not in each), ())})
            if len(stored) == found.count and (decoded == found.count or self._codec in _ONE_FRAME_A_PACKET):
                self._stored = stored[: len(times)]
        self._total, self._careful = len(times), bool(self._failure)
        self._restart(0)
        self._next, self._cache[0] = 1, next(self._frames)

    def _times(self) -> tuple[np.ndarray, float]:
        """Presentation times in seconds from 0, and frames a second."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        pts = self._stored if self._by_count else self._pts
        if pts is None:
            fps = float(rate or 30)
            return np.arange(len(self._pts)) / fps, fps
        times_s = (np.asarray(pts, dtype=np.int64) - pts[0]) * float(self._stream.time_base)
        if len(times_s) > 1:
            mean = (len(times_s) - 1) / times_s[-1]
            if not rate or abs(float(rate) / mean - 1) > _SAME_RATE + 1 / len(times_s):
                rate = mean  # of a rate that varies the header tells something else, or nothing
        return times_s, float(rate or 30)

    def _last_needed(self) -> Int64[np.ndarray, " frames"]:
        """For each frame the last one on screen among it and those decoded before it.

        Pictures are predicted from later ones, and damage shows in a picture only when its turn comes: a frame is
        handed out once all that it may be predicted from have come out whole.
        """
        if self._by_count or not self._orders.keys() >= set(self._pts):
            return np.arange(len(self._pts))
        in_file = np.argsort([self._orders[pts] for pts in self._pts])
        needs = np.empty(len(in_file), dtype=np.int64)
        needs[in_file] = np.maximum.accumulate(in_file)
        return needs

    def _find(self, number: int) -> None:
        """Put frame `number` into the cache, or find out where the video breaks."""
        if self._broken is None or number < self._broken:
            key = self._key_before(number)
            key_number = bisect_left(self._pts, key.pts) if key else 0
            if number not in self._cache and not (self._next <= number and key_number <= self._next + _NEAR):
                self._begin_before(number)
            if self._forward(number):
                return
            if not (self._careful and self._began_at_start):
                self._careful = True
                self._restart(0)
                if self._forward(number):
                    return
            self._broken = int(np.argmax(self._needs >= self._next))
            self._failure = self._failure or "a frame is missing"
            self.warning = f"decoded {self._broken} of {self._total} frames, then: {self._failure}"
        raise BrokenVideo(f"{self.path}: frame {number} is not to be had ({self.warning}); {_REMEDY}")

    def _key_before(self, number: int) -> Packet | None:
        """Latest key frame shown no later than frame `number`; none where only the start of the file is sure."""
        if self._by_count:
            return None
        place = bisect_right(self._keys, self._pts[number], key=lambda packet: packet.pts)
        return self._keys[place - 1] if place else None

    def _begin_before(self, number: int) -> None:
        """Begin to decode at the latest key frame before frame `number` that decodes without another one.

        Some containers call every packet a key; those that are none are forgotten.
        """
        while (key := self._key_before(number)) and key.order:
            self._restart(key.order)
            first = next((frame for frame in self._frames if (frame.pts or 0) >= key.pts), None)
            if first is not None and first.pts == key.pts and (first.key_frame or first.pict_type not in _PREDICTED):
                self._frames = chain([first], self._frames)
                return
            self._keys.remove(key)
        self._restart(0)

    def _forward(self, number: int) -> bool:
        """Decode on until frame `number` is in the cache and sure; False when one on the way is damaged or missing."""
        if self._next > self._needs[number]:
            return True
        for frame in self._frames:
            found = self._next if self._by_count else bisect_left(self._pts, frame.pts or 0)
            if not self._by_count and (found == len(self._pts) or self._pts[found] != frame.pts or found < self._next):
                continue  # not shown, or shown before the key frame we began at
            if frame.is_corrupt:
                self._failure = "a damaged frame"
            if frame.is_corrupt or found > self._next:
                return False
            self._next += 1
            self._cache[found] = frame
            for old in [old for old in self._cache if old < number - _KEPT]:
                del self._cache[old]
            if self._next > self._needs[number]:
                return True
        return False

    def _restart(self, order: int) -> None:
        """Begin to decode at packet `order`."""
        packets = self._seek(order) if order else None
        if packets is None:
            self._open()
            self._stream.thread_type = "SLICE" if self._careful else "AUTO"
            packets = islice((packet for packet in self._container.demux(self._stream) if packet.size), order, None)
        packets = islice(packets, self._survey.count - order)
        self._began_at_start, self._failure = order == 0, ""
        self._cache.clear()
        self._frames = self._decode(packets)
        key = next((key for key in self._keys if key.order == order), None)
        self._next = bisect_left(self._pts, key.pts) if order and key else 0

    def _open(self) -> None:
        """Open the file again."""
        self._container.close()
        self._container, self._stream = open_stream(self.path, self._survey.until)

    def _seek(self, order: int) -> Iterator[Any] | None:
        """Packets from `order` on after a seek; None when the seek led past it or nowhere known."""
        import av

        key = next(key for key in self._keys if key.order == order)
        try:
            self._container.seek(key.pts if key.dts is None else key.dts, stream=self._stream)
            packets = (packet for packet in self._container.demux(self._stream) if packet.size)
            landed = next((packet for packet in packets if packet.pts is not None), None)
        except av.FFmpegError:
            return None
        if landed is None or self._orders.get(landed.pts, order + 1) > order:
            return None
        return dropwhile(lambda packet: packet.pts != key.pts, chain([landed], packets))

    def _decode(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Frames that come out of `packets`, in presentation order, up to the first error after a first frame."""
        import av

        context, began = self._stream.codec_context, False
        self._draining, self._undecodable = False, 0
        try:
            for packet in packets:
                if not packet.size:
                    continue
                try:
                    frames = context.decode(packet)
                except av.FFmpegError as error:
                    self._failure = reason(error)
                    if began:
                        break
                    self._undecodable += 1
                    continue  # nothing shown yet: what precedes the first whole picture of a cut stream
                if frames and not began:
                    began, self._failure = True, ""
                yield from frames
        except av.FFmpegError as error:
            self._failure = reason(error)
        self._draining = True
        try:
            yield from context.decode(None)  # frames still waiting for their turn
        except av.FFmpegError as error:
            self._failure = self._failure or reason(error)
