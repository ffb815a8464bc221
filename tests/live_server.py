"""A server of streams: numbered frames as MJPEG or MPEG-TS that grow while one looks, or as a whole file.

    python tests/live_server.py FRAMES SECONDS_BETWEEN CUT_EVERY

Prints its port. Connections are torn down after every CUT_EVERY frames (0: never); the next one goes on with the next
frame. When all frames are sent, the server is gone.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
from numbered_frames import HEIGHT, WIDTH, encode, picture

MJPEG = "multipart/x-mixed-replace; boundary=frame"
FRAMES, BETWEEN_S, CUT_EVERY = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
sent, lock = [0], threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """/mjpeg, /ts, /file.mp4 and /text; /rubbish, which never ends, and /silence."""

    def do_GET(self) -> None:
        if self.path == "/file.mp4":
            with tempfile.TemporaryDirectory() as folder:
                content = encode(
                    Path(folder) / "clip.mp4", count=FRAMES, options={"movflags": "+faststart"}
                ).read_bytes()
            self._begin("video/mp4", len(content))
            self.wfile.write(content)
        elif self.path == "/text":
            self._begin("text/plain", 5)
            self.wfile.write(b"hello")
        elif self.path == "/rubbish":
            self._begin(MJPEG)
            while True:
                self._part(b"\xff\xd8 this is no picture")
                time.sleep(0.05)
        elif self.path == "/silence":
            time.sleep(600)
        elif self.path in ("/mjpeg", "/ts"):
            with lock:
                self._begin(MJPEG if self.path == "/mjpeg" else "video/mp2t")
                (self._jpegs if self.path == "/mjpeg" else self._transport_stream)()
        else:
            self.send_error(404)

    def _begin(self, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _numbers(self):
        for count in range(1, FRAMES + 1):
            if sent[0] == FRAMES:
                self.wfile.flush()
                os._exit(0)
            yield sent[0]
            sent[0] += 1
            time.sleep(BETWEEN_S)
            if count == CUT_EVERY:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()  # as if a cable were pulled
                raise ConnectionResetError

    def _jpegs(self) -> None:
        for number in self._numbers():
            self._part(cv2.imencode(".jpg", picture(number))[1].tobytes())

    def _part(self, jpeg: bytes) -> None:
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        self.wfile.write(head.encode() + jpeg + b"\r\n")

    def _transport_stream(self) -> None:
        written = io.BytesIO()
        with av.open(written, "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=30, options={"tune": "zerolatency", "g": "5"})
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for number in self._numbers():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number))))
                self.wfile.write(written.getvalue())
                written.seek(0)
                written.truncate()

    def log_message(self, *_: object) -> None:
        """Nothing: nobody reads it."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
