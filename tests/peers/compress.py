#!/usr/bin/env python3
"""A peer that speaks zlib, raw deflate and zstd, with Python's zlib and the zstd program.

    compress.py client FORMAT ADDRESS    sends lines and checks their echoes
    compress.py server FORMAT            echoes lines; prints its address

FORMAT is zlib, deflate or zstd.
"""

import socket
import subprocess
import sys
import zlib

LINES = [f"{n} {'text ' * n}\n".encode() for n in range(300)]


def zstd(data, *flags):
    return subprocess.run(["zstd", "-q", "-c", *flags], input=data, capture_output=True, check=True).stdout


class Stream:
    """A compressed stream over a socket."""

    def __init__(self, conn, form):
        self.conn = conn
        self.form = form
        wbits = 15 if form == "zlib" else -15
        self.deflate = zlib.compressobj(6, zlib.DEFLATED, wbits)
        self.inflate = zlib.decompressobj(wbits)
        self.wire = b""
        self.plain = b""

    def send(self, data):
        if self.form == "zstd":
            self.wire += data
        else:
            self.conn.sendall(self.deflate.compress(data) + self.deflate.flush(zlib.Z_SYNC_FLUSH))

    def finish(self):
        if self.form == "zstd":
            # the default window of unknown lengths is 2 MiB, and getty accepts 1 MiB
            self.conn.sendall(zstd(self.wire, "--zstd=wlog=20"))
        elif self.form == "zlib":
            self.conn.sendall(self.deflate.flush(zlib.Z_FINISH))
        self.conn.shutdown(socket.SHUT_WR)

    def recv(self):
        """Returns inflated bytes, or none at the end."""
        while data := self.conn.recv(65536):
            if self.form == "zstd":
                self.plain += data
            elif plain := self.inflate.decompress(data):
                return plain
        if self.form == "zstd" and self.plain:
            plain, self.plain = zstd(self.plain, "-d"), b""
            return plain
        if self.form == "zlib":
            assert self.inflate.eof, "the end is not a final block with its checksum"
        assert not self.inflate.unused_data
        return b""


def client(form, address):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=20) as conn:
        stream = Stream(conn, form)
        echoed = b""
        for line in LINES:
            stream.send(line)
            if form != "zstd":
                while len(echoed) < sum(map(len, LINES[:LINES.index(line) + 1])):
                    plain = stream.recv()
                    assert plain, "the echo has ended"
                    echoed += plain
        stream.finish()
        while plain := stream.recv():
            echoed += plain
        assert echoed == b"".join(LINES), f"{len(echoed)} bytes were echoed"


def server(form):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("listening", "%s:%d" % listener.getsockname(), flush=True)
        conn, _ = listener.accept()
        with conn:
            conn.settimeout(20)
            stream = Stream(conn, form)
            while plain := stream.recv():
                stream.send(plain)
            stream.finish()


if sys.argv[1] == "client":
    client(sys.argv[2], sys.argv[3])
else:
    server(sys.argv[2])
