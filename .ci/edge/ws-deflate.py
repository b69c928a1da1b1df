"""Python's websockets against getty, in both roles. Usage: ws-deflate.py URL CLIENT

URL is getty's echo server with compression. CLIENT is getty's client for Autobahn's cases, which echoes.
"""

import asyncio
import itertools
import json
import os
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.extensions import permessage_deflate as deflate

URL, CLIENT = sys.argv[1:3]
MESSAGES = [
    "",
    "x",
    "hello " * 100,
    json.dumps([{"id": n, "name": f"user {n}"} for n in range(3000)]),
    "äöü€" * 20_000,
    b"",
    b"\0" * 1_000_000,
    os.urandom(100),
    os.urandom(70_000),
]


async def exchange(ws):
    """Sends each message whole and in fragments, and expects its echo."""
    for message in MESSAGES:
        cut = [message[i : i + 1000] for i in range(0, min(len(message), 50_000), 1000)] or [message]
        for sent in (message, cut):
            await ws.send(sent)
            back = await ws.recv()
            expected = message if sent is message else type(message)().join(cut)
            assert back == expected, f"{len(expected)} came back as {len(back)}"


async def against_the_server():
    choices = itertools.product((False, True), (False, True), (None, 9, 15), (None, True, 9, 15))
    agreed = 0
    for server_no, client_no, server_bits, client_bits in choices:
        offer = deflate.ClientPerMessageDeflateFactory(
            server_no_context_takeover=server_no,
            client_no_context_takeover=client_no,
            server_max_window_bits=server_bits,
            client_max_window_bits=client_bits,
        )
        async with connect(URL, extensions=[offer], compression=None, max_size=None) as ws:
            assert len(ws.protocol.extensions) == 1, f"not agreed: {offer.get_request_params()}"
            await exchange(ws)
            agreed += 1
    async with connect(URL, compression=None, max_size=None) as ws:
        assert not ws.protocol.extensions
        await exchange(ws)
    print(f"  Python's websockets as a client: {agreed} variants were agreed, and every message came back")


async def against_the_client():
    seen = []

    async def handler(ws):
        path = ws.request.path
        if path == "/getCaseCount":
            await ws.send("1")
        elif path.startswith("/runCase"):
            seen.append(len(ws.protocol.extensions))
            await exchange(ws)
            seen.append("done")

    variants = list(itertools.product((False, True), (False, True), (None, 9, 15), (None, 9, 15)))
    for server_no, client_no, server_bits, client_bits in variants:
        accept = deflate.ServerPerMessageDeflateFactory(
            server_no_context_takeover=server_no,
            client_no_context_takeover=client_no,
            server_max_window_bits=server_bits,
            client_max_window_bits=client_bits,
        )
        async with serve(handler, "127.0.0.1", 0, extensions=[accept], compression=None, max_size=None) as server:
            port = server.sockets[0].getsockname()[1]
            client = await asyncio.create_subprocess_exec(
                CLIENT, f"ws://127.0.0.1:{port}", stdout=asyncio.subprocess.PIPE
            )
            out, _ = await asyncio.wait_for(client.communicate(), 60)
            assert client.returncode == 0, out
    assert seen == [1, "done"] * len(variants), seen
    print(f"  Python's websockets as a server: {len(variants)} variants were agreed, and every message came back")


async def bombs():
    offer = deflate.ClientPerMessageDeflateFactory(client_max_window_bits=15)
    async with connect(URL, extensions=[offer], compression=None, max_size=None) as ws:
        try:
            await ws.send(b"\0" * (17 * 1024 * 1024))
            await ws.recv()
            raise AssertionError("17 MiB were accepted")
        except ConnectionClosed as closed:
            assert closed.rcvd and closed.rcvd.code == 1009, closed
    print("  a message beyond the maximum was refused with 1009")


async def main():
    await against_the_server()
    await against_the_client()
    await bombs()


asyncio.run(main())
