#!/usr/bin/env python3
"""Writes the seed corpus of the fuzz targets to fuzz/corpus.

Part of it is made by hand, in the layout that each target reads. The rest are captures of what real programs send: curl,
openssl, chromium, haproxy, tinyproxy, microsocks, nats-server and zstd. A program that is not installed is left out.
With
--by-hand there are no captures. Files that exist and are not written again stay.
"""

import http.server
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent / "corpus"
SEED = b"\x07"


def save(target, name, data):
    folder = ROOT / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def part(data):
    assert len(data) < 256, len(data)
    return bytes([len(data)]) + data


def frame(data):
    return struct.pack(">I", len(data)) + data


# ---- codecs


def codecs():
    for name, bits, limit, stream in [
        ("lines", 0, 100, b"hello\r\nworld\n\nh\xc3\xa9llo\nlast"),
        ("crlf", 1, 199, b"EHLO a\r\nMAIL FROM:<a@b>\r\na\r\r\n"),
        ("final", 2, 50, b"PAY 10000\nPAY 100"),
        ("long", 0, 5, b"12345\n12345\r\n123456\n"),
        ("not_utf8", 0, 100, b"ok\n\xff\xfe\nok\n"),
        ("large", 0, 255, b"x" * 300 + b"\r\n" + b"y" * 40),
    ]:
        save("codec_lines", name, SEED + bytes([bits, limit]) + stream)

    frames = frame(b"hello") + frame(b"") + frame(b"x" * 60)
    settings = {
        "plain": bytes([0, 100]) + frames,
        "long": bytes([0, 4]) + frame(b"1234") + frame(b"12345"),
        "cut": bytes([0, 100]) + frames + b"\0\0\0\x09abc",
        "u16_little": bytes([3, 100, 2, 1]) + b"\x05\0hello\0\0",
        "kept": bytes([0x25, 199, 2, 1, 0]) + b"T\0\x05" + b"abcdeT\0\0" + b"T\0\x01z",
        "adjusted": bytes([1, 100, 4, 0]) + b"\x03hello" + b"\x00yz",
        "negative": bytes([1, 100, 0xFF, 1]) + b"\x00\x08hello" + b"\0\x01",
        "u64": bytes([1, 100, 2, 7]) + struct.pack(">Q", 3) + b"abc" + b"\xff" * 8,
        "skip": bytes([5, 100, 2, 0, 4]) + b"\x02\x01\x02\x03ab",
    }
    for name, data in settings.items():
        save("codec_length_delimited", name, SEED + data)
        save("codec_frames", name, SEED + b"\x1b" + data)
    many = b"".join(frame(b"m" * (n % 50)) for n in range(60))
    save("codec_frames", "many", SEED + b"\xe4" + bytes([0, 100]) + many)

    varints = b"\x05hello\x00\x80\x01" + b"v" * 128
    save("codec_varint_delimited", "frames", SEED + b"\xc8" + varints)
    save("codec_varint_delimited", "long", SEED + b"\x04\x04abcd\x05abcde")
    save("codec_varint_delimited", "prefix", SEED + b"\xc8\x01a\xff\xff\xff\xff\xff\x01")
    save("codec_varint_delimited", "overlong", SEED + b"\xc8\x81\x80\x00a\x82")

    save("codec_raw", "bytes", SEED + b"\x09" + bytes(range(64)))
    save("codec_messages", "both", b"\x06" + part(b"hello") + part(b"") + part(b"\xff\xfe") + part(b"toolong") + part("é".encode()))

    save("codec_packets", "u16", b"\x01" + SEED + b"\x64" + frame(b"\0\x07hi") + frame(b"\0\x08") + frame(b"\x01"))
    save("codec_packets", "u8", b"\x00" + SEED + b"\x64" + frame(b"\x07hi") + frame(b""))
    save("codec_packets", "u32", b"\x02" + SEED + b"\x64" + frame(b"\0\0\0\x07hi") + frame(b"\0\0\0"))

    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    text = b'{"id":1,"name":"user 1"},' * 6
    packed = deflate.compress(text) + deflate.flush()
    save("codec_deflated", "both", SEED + b"\xc8\xc8\x0a" + part(b"compress me ") + frame(b"\0plain") + frame(b"\x01" + packed))
    save("codec_deflated", "long", SEED + b"\xc8\x40\x00" + part(b"x") + frame(b"\x01" + packed) + frame(b"\x02a") + frame(b""))
    save("codec_deflated", "cut", SEED + b"\xc8\xc8\x00" + part(b"") + frame(b"\x01" + packed[:-3]) + frame(b"\x01" + packed + b"x"))

    save("codec_deflated", "exact", SEED + b"\xc8\x05\x00" + part(b"12345") + frame(b"\x0012345") + frame(b"\x00123456"))

    save("codec_switch", "lines", SEED + b"\x00\x00\x64\x64" + b"LOGIN\nBINARY\n" + frame(b"hello") + frame(b"BINARY"))
    save("codec_switch", "frames", SEED + b"\x01\x00\x64\x64" + frame(b"a") + frame(b"BINARY") + b"hello\nworld")
    save("codec_switch", "partial", SEED + b"\x01\x00\x64\x64" + frame(b"b" * 50) + frame(b"BINARY") + b"\0\0\0\x05x\n")


def formats():
    texts = [
        b'"Unit"', b'{"Number":-7}', b'{"Wide":340282366920938463463374607431768211455}', b'{"Text":"h\\u00e9\\n"}', b'{"Char":"x"}',
        b'{"Bytes":[0,255]}', b'{"Pair":[7,null]}', b'{"List":["Unit",{"Pair":[1,true]}]}',
        b'{"Struct":{"name":"a","inner":{"Struct":{"name":"b","inner":null}}}}', b'{"Number":1.5}', b'{"List":[', b'"Unit" x',
        b' \t"Unit"\r\n', b'\x0c"Unit"', b'"Unit"\0', b"\xef\xbb\xbf1", b'{"Text":"\xff"}', b'{"Number":9223372036854775808}',
    ]
    save("codec_json", "all", SEED + b"".join(frame(text) for text in texts))
    def lists(first, last, one, end=b""):
        return SEED + b"".join(frame(one * depth + last + end * depth) for depth in first)

    levels = [1, 40, 42, 43, 63, 64, 65, 126, 127, 128, 129, 130]
    save("codec_json", "deep", lists(levels[:7], b'"Unit"', b'{"List":[', b"]}"))
    pack = [
        b"\xa4Unit", b"\x81\xa6Number\xf9", b"\x81\xa4Text\xa2hi", b"\x81\xa5Bytes\x92\x01\xcc\xff", b"\x81\xa4Pair\x92\x07\xc0",
        b"\x81\xa4List\x92\xa4Unit\x81\xa4Pair\x92\x01\xc3", b"\x81\xa6Struct\x82\xa4name\xa1a\xa5inner\xc0",
        b"\x81\xa6Struct\x92\xa1a\xa4Unit", b"\xa4Unit\xc0", b"\x81\xa4List\xdd\xff\xff\xff\xff", b"\x81\xa4Wide\xc4\x10" + b"\0" * 15 + b"\x07",
    ]
    save("codec_message_pack", "all", SEED + b"".join(frame(text) for text in pack))
    save("codec_message_pack", "deep", lists(range(125, 131), b"\xa4Unit", b"\x81\xa4List\x91"))
    post = [
        b"\0", b"\x01\x0d", b"\x02" + b"\xff" * 18 + b"\x03", b"\x03\x02hi", b"\x04\x01x", b"\x05\x02\0\xff", b"\x06\x07\x01\x01",
        b"\x07\x02\0\x06\x01\0", b"\x08\x01a\x01\x08\x01b\0", b"\0x", b"\x07\xff\xff\xff\xff\x0f",
    ]
    save("codec_postcard", "all", SEED + b"".join(frame(text) for text in post))
    save("codec_postcard", "deep", lists(levels, b"\0", b"\x07\x01"))
    inner = b"\x0a\x01b\x10\x03"
    proto = [
        b"", b"\x0a\x02hi\x10\x0d", b"\x1a\x01x\x1a\x00", b"\x22" + part(inner), b"\x2a\x03\x01\x80\x01", b"\x28\x05\x28\x06",
        b"\x81\x01" + b"\x01" * 8, b"\x0a\x05a", b"\x0a\x02\xff\xff", b"\xf8\xff\xff\xff\x0f\x01", b"\x33\x34",
    ]
    save("codec_prost", "all", SEED + b"".join(frame(text) for text in proto))
    deep = b""
    for _ in range(60):
        deep = b"\x22" + bytes([len(deep)]) + deep if len(deep) < 128 else b"\x22" + bytes([len(deep) & 127 | 128, len(deep) >> 7]) + deep
    save("codec_prost", "deep", SEED + frame(deep))


# ---- WebSocket


def ws_frame(first, payload, mask=b"\x12\x34\x56\x78"):
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head = bytes([first, bit | len(payload)])
    elif len(payload) < 65536:
        head = bytes([first, bit | 126]) + struct.pack(">H", len(payload))
    else:
        head = bytes([first, bit | 127]) + struct.pack(">Q", len(payload))
    if mask:
        payload = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return head + mask + payload


def websocket():
    text, binary, close, ping, pong, fin = 1, 2, 8, 9, 10, 0x80
    for name, mask in [("server", b"\x12\x34\x56\x78"), ("client", b"")]:
        def f(first, payload):
            return ws_frame(first, payload, mask)

        def seed(kind, frames, message=200, frame=200):
            data = SEED + bytes([0 if mask else 1, message, frame]) + frames
            save("ws_frames", f"{name}_{kind}", data)

        seed("messages", f(fin | text, "hé".encode()) + f(fin | binary, b"\0\xff") + f(fin | close, b"\x03\xe8bye"))
        seed("fragments", f(text, b"h\xc3") + f(fin | ping, b"?") + f(0, b"") + f(fin, b"\xa9") + f(fin | pong, b""))
        seed("empty", f(fin | text, b"") + f(fin | close, b""))
        seed("extended", f(fin | binary, b"x" * 126) + f(fin | binary, b"y" * 400) + f(fin | close, b"\x0f\xa0"))
        seed("too_long", f(fin | binary, b"12345") + f(fin | binary, b"123456"), 5, 5)
        seed("sum_too_long", f(binary, b"123") + f(0, b"123") + f(fin, b"4"), 6, 5)
        seed("bad_close", f(fin | close, b"\x03\xed"))
        seed("one_byte_close", f(fin | close, b"\x03"))
        if mask:
            for code in [0, 999, 1003, 1004, 1005, 1006, 1007, 1011, 1012, 1014, 1015, 1016, 2999, 3000, 4999, 5000]:
                seed(f"close_{code}", f(fin | close, code.to_bytes(2, "big") + b"bye"))
            seed("close_bad_text", f(fin | close, b"\x03\xe8\xff"))
            seed("close_all_bad", f(fin | close, b"\x03\xed\xff"))
        seed("bad_text", f(fin | text, b"\xed\xa0\x80"))
        seed("reserved", f(0x40 | fin | text, b"x"))
        seed("opcode", f(fin | 3, b""))
        seed("no_start", f(fin, b"x"))
        seed("cut", f(fin | text, b"hello")[:-2])
        seed("other_mask", ws_frame(fin | text, b"hello", b"" if mask else b"\x12\x34\x56\x78"))

    head = "GET /chat?x=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" \
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    for name, bits, size, more in [
        ("plain", 0, 40, ""),
        ("protocol", 3, 60, "Sec-WebSocket-Protocol: v0, v2\r\n"),
        ("deflate", 4, 60, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"),
        ("origin", 0, 60, "Origin: https://example.com\r\n"),
        ("body", 0, 60, "Content-Length: 3\r\n"),
        ("twice", 0, 60, "Sec-WebSocket-Version: 13\r\n"),
        ("long", 0, 4, ""),
    ]:
        save("ws_request", name, SEED + bytes([bits, size]) + head.encode() + more.encode() + b"\r\nrest")
    save("ws_request", "key", SEED + b"\x00\x40" + head.replace("bm9uY2U==", "bm9uY2Ux=").replace("25jZQ==", "25jZQx=").encode() + b"\r\n")
    save("ws_request", "http10", SEED + b"\x00\x40" + head.replace("1.1", "1.0").encode() + b"\r\n")
    save("ws_request", "post", SEED + b"\x00\x40" + head.replace("GET", "POST").encode() + b"\r\n")
    save("ws_request", "lf", SEED + b"\x00\x40" + head.replace("\r\n", "\n").encode() + b"\n\r\n\r\n")

    answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
    for name, bits, more in [
        ("plain", 0, ""),
        ("protocol", 1, "Sec-WebSocket-Protocol: chat\r\n"),
        ("other_protocol", 1, "Sec-WebSocket-Protocol: other\r\n"),
        ("deflate", 2, "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_max_window_bits=9\r\n"),
        ("takeover", 2, "Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        ("not_offered", 0, "Sec-WebSocket-Extensions: permessage-deflate\r\n"),
    ]:
        save("ws_response", name, SEED + bytes([bits, 60]) + answer.encode() + more.encode() + b"\r\n\x82\x01x")
    save("ws_response", "refused", SEED + b"\x00\x40HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    save("ws_response", "wrong", SEED + b"\x00\x40" + answer.replace("{accept}", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=").encode() + b"\r\n")

    for name, text in [
        ("chrome", "permessage-deflate; client_max_window_bits"),
        ("all", "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=12"),
        ("fallback", "permessage-deflate; server_max_window_bits=8, permessage-deflate"),
        ("quoted", ' permessage-deflate ; server_max_window_bits = "9" '),
        ("others", 'x-webkit-deflate-frame, bbf; x="a,b;c\\""\npermessage-deflate; client_max_window_bits=15'),
        ("twice", "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9\n"
         "permessage-deflate; client_max_window_bits; client_max_window_bits=9"),
        ("bad", "permessage-deflate; level=9\npermessage-deflate; server_no_context_takeover=1\npermessage-deflate;"),
    ]:
        save("ws_deflate_offers", name, text.encode())

    save("ws_inflate", "text", SEED + b"\xc8" + b"\x0b\x04" + part(b"hello hello hello") + b"\x01\x02" + part(b"plain") + b"\x0a\xff" + part(b"\xff\0" * 40))
    save("ws_inflate", "long", SEED + b"\x40" + b"\xfe\x20" + part(b"abc") + b"\xfa\x07" + part(b"x" * 60))
    save("ws_inflate", "raw", SEED + b"\xc8" + b"\x03\x09" + part(b"\xcaH\xcd\xc9\xc9\x07\x00") + b"\x02\x01" + part(b"\x03\x00"))
    save("ws_inflate", "bad", SEED + b"\xc8" + b"\x02\x03" + part(b"\xff\xff\xff") + b"\x03\x03" + part(b"\x00"))


# ---- compression


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def snappy_chunk(data):
    crc = crc32c(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return b"\x01" + struct.pack("<I", len(data) + 4)[:3] + struct.pack("<I", masked) + data


def compression():
    text = b"a compressed stream of lines\n" * 9
    for name, wbits, format in [("deflate", -15, 0), ("zlib", 15, 1)]:
        stream = zlib.compressobj(6, zlib.DEFLATED, wbits)
        flushed = stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH) + stream.compress(b"more") + stream.flush(zlib.Z_SYNC_FLUSH)
        finished = flushed + stream.flush(zlib.Z_FINISH)
        stored = zlib.compressobj(0, zlib.DEFLATED, wbits)
        stored = stored.compress(b"stored") + stored.flush()
        for kind, data in [("flushed", flushed), ("finished", finished), ("behind", finished + b"x"), ("cut", flushed[:-3]), ("stored", stored)]:
            save("compressed_stream", f"{name}_{kind}", SEED + bytes([format, 60]) + data)
    snappy = b"\xff\x06\0\0sNaPpY" + snappy_chunk(b"hello") + b"\xfe\x03\0\0abc" + snappy_chunk(b"world")
    save("compressed_stream", "snappy", SEED + b"\x02\x3c" + snappy)
    save("compressed_stream", "snappy_compressed", SEED + b"\x02\x3c" + b"\xff\x06\0\0sNaPpY" + b"\0\x0a\0\0" + struct.pack("<I", 0) + b"\x05\x10hello")
    if shutil.which("zstd"):
        for name, options in [("zstd", []), ("zstd_checked", ["--check"])]:
            data = subprocess.run(["zstd", "-q", "-c", "--zstd=wlog=17", *options], input=text, stdout=subprocess.PIPE, check=True).stdout
            save("compressed_stream", name, SEED + b"\x03\x3c" + data)
    for format, name in enumerate(["deflate", "zlib", "snappy", "zstd"]):
        for level in [1, 2] if format < 2 else [0]:
            data = SEED + bytes([format, level, 40, 90]) + b"\x05" + part(b'{"id":1}') + b"\x00" + part(b"") + b"\x27" + part(b"x" * 40)
            save("compressed_messages", f"{name}_{level}", data)


# ---- edge


def edge():
    for name, text in [
        ("plain", b"hello\n"), ("start", b"\x16\x03"), ("not_tls", b"\x16\x03\x05abc"), ("short", b"\x16"), ("empty", b""),
        ("alert", b"\x16\x03\x01\x00\x02\x01\x00"),
    ]:
        save("detect_tls", name, SEED + b"\xff" + text)
    for name, text in [
        ("raw", b"hello\n"), ("almost", b"GET"), ("other", b"GEX x"), ("empty", b""), ("bad", b"GET / HTTP/1.1\r\n\r\n"),
    ]:
        save("detect_ws", name, SEED + text)
    save("opening", "carry", SEED + b"\x00\xc7\xc7" + b"LOGIN ann\r\nEXACT\n12345CARRY\n" + frame(b"hello") + frame(b"x" * 30))
    save("opening", "one_byte", SEED + b"\x00\xc7\xc7" + b"CARRY\n\0")
    save("opening", "end", SEED + b"\x00\xc7\xc7" + b"LOGIN\nEXACT\n123")
    save("opening", "long", SEED + b"\x02\x05\x04" + b"CARRY\n" + frame(b"1234") + frame(b"12345"))

    socks = {
        "success": b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x1b\x58first bytes",
        "ipv6": b"\x05\x00\x05\x00\x00\x04" + b"\0" * 16 + b"\x1b\x58",
        "name": b"\x05\x00\x05\x00\x00\x03\x04host\x1b\x58rest",
        "refused": b"\x05\x00\x05\x05", "failed": b"\x05\x00\x05\x01\x00\x01", "none": b"\x05\xff", "socks4": b"\x00\x5a",
        "type": b"\x05\x00\x05\x00\x00\x02",
    }
    for name, data in socks.items():
        save("socks5_reply", name, SEED + b"\x00" + data)
    save("socks5_reply", "login", SEED + b"\x01\x05\x02\x01\x00" + socks["success"][2:])
    save("socks5_reply", "rejected", SEED + b"\x01\x05\x02\x01\x01")

    for name, login, filler, data in [
        ("success", 0, 0, b"HTTP/1.1 200 Connection established\r\n\r\nrest"),
        ("headers", 0, 0, b"HTTP/1.0 200 OK\r\nVia: proxy\r\nX: y\r\n\r\n\x16\x03"),
        ("lf", 0, 0, b"HTTP/1.1 200 OK\nA: b\n\nrest"),
        ("interim", 0, 0, b"HTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200\r\n\r\nrest"),
        ("login", 0, 0, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
        ("rejected", 1, 0, b"HTTP/1.1 407 No\r\n\r\n"),
        ("bad_gateway", 0, 0, b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
        ("switch", 0, 0, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        ("not_http", 0, 0, b"SSH-2.0-x\r\n"),
        ("long", 0, 255, b"HTTP/1.1 200 OK\r\nX: \xff\r\n\r\nrest"),
        ("just_fits", 0, 247, b"HTTP/1.1 200 OK\r\nX: \xff\r\n\r\nrest"),
        ("cut", 0, 0, b"HTTP/1.1 200 OK\r\nX: y\r\n"),
    ]:
        save("connect_reply", name, SEED + bytes([login, filler]) + data)

    for name, text in [("name", "example.com:7000"), ("ipv4", "192.0.2.7:1"), ("ipv6", "[2001:db8::1]:443"), ("bare", "::1:80"), ("bad", "a b:1")]:
        save("proxy_target", name, text.encode())

    signature = b"\r\n\r\n\0\r\nQUIT\n"

    def binary(command, family, block):
        return signature + bytes([command, family]) + struct.pack(">H", len(block)) + block

    ipv4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack(">HH", 50000, 443)
    unix = b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0")
    for name, limit, data in [
        ("v1", 0, b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\nrest"),
        ("v1_ipv6", 0, b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"),
        ("v1_unknown", 0, b"PROXY UNKNOWN ff:: x\r\nGET /"),
        ("v1_port", 0, b"PROXY TCP4 1.2.3.4 1.2.3.4 065 443\r\n"),
        ("v1_long", 0, b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n"),
        ("v1_too_long", 0, b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n"),
        ("v2", 0, binary(0x21, 0x11, ipv4) + b"rest"),
        ("v2_ipv6", 0, binary(0x21, 0x21, b"\x20\x01" + b"\0" * 30 + ipv4[8:])),
        ("v2_unix", 0, binary(0x21, 0x31, unix)),
        ("v2_local", 0, binary(0x20, 0, b"")),
        ("v2_tlvs", 50, binary(0x21, 0x11, ipv4 + b"\x01\0\x02h2" + b"\x02\0\x01a" + b"\x20\0\x0a\x01\0\0\0\0\x21\0\x02v1" + b"\x04\0\0")),
        ("v2_max", 20, binary(0x21, 0x11, ipv4 + b"\x04" + struct.pack(">H", 89) + b"x" * 89)),
        ("v2_crc", 0, binary(0x21, 0x11, ipv4 + b"\x03\0\x04" + b"\0" * 4)),
        ("v2_version", 0, binary(0x11, 0x11, ipv4)),
        ("missing", 0, b"GET / HTTP/1.1\r\n"),
    ]:
        save("proxy_header", name, SEED + bytes([limit]) + data)
    good = binary(0x21, 0x11, ipv4 + b"\x03\0\x04" + b"\0" * 4)
    good = good[:-4] + struct.pack(">I", crc32c(good))
    save("proxy_header", "v2_crc_good", SEED + b"\0" + good)


def cluster():
    def bus(kind, origin, number, sequence, key, payload, version=1, flags=0):
        return bytes([version, kind, flags]) + struct.pack(">QQQH", origin, number, sequence, len(key)) + key + payload

    frames = [
        (0, bus(0, 5, 1, 1, b"tea", b"hello", flags=1)), (0, bus(0, 5, 2, 2, b"tea", b"again")), (0, bus(0, 5, 2, 2, b"tea", b"twice")),
        (0, bus(0, 6, 9, 9, b"coffee", b"other topic")), (0, bus(0, 6, 10, 12, b"tea", b"a gap")), (0, bus(1, 6, 11, 0, b"tea", b"")),
        (0, b"\x01\x00short"), (0, bus(0, 5, 3, 3, b"tea", b"", version=2)), (0, bus(9, 5, 4, 4, b"tea", b"")),
    ]
    data = part(b"getty.fuzz.x") + b"".join(bytes([to]) + part(frame) for to, frame in frames)
    save("bus_frames", "messages", data)
    reason = struct.pack(">QH", 77, 5) + b"rooms"
    control = [
        (2, bus(7, 5, 1, 0, b"", b"node five")), (2, bus(6, 5, 2, 0, b"", b"node \xff")), (2, bus(4, 5, 3, 0, b"tea", struct.pack(">Q", 3) + b"rooms")),
        (2, bus(5, 5, 4, 0, b"", struct.pack(">Q", 3) + b"\x01\0\x01a")), (2, bus(3, 5, 5, 0, b"", struct.pack(">Q", 9))),
        (2, bus(2, 5, 6, 0, b"", struct.pack(">Q", 9))), (2, bus(1, 5, 7, 0, b"tea", reason + b"\x02")), (2, bus(8, 5, 8, 0, b"", b"")),
    ]
    save("bus_frames", "control", part(b"getty.fuzz.t.rooms.tea") + b"".join(bytes([to]) + part(frame) for to, frame in control))

    def names(*all):
        return b"".join(part(name) for name in all)

    save("bus_subjects", "plain", names(b"chat", b"rooms", b"lobby", b"chat", b"rooms", b"lobby2"))
    save("bus_subjects", "escapes", names(b"a.b", b"*", b">", b"a_2eb", b"_2a", b"_3e"))
    save("bus_subjects", "same", names(b"a", b"b", b"\r\nPUB x", b"a", b"b", b"\r\nPUB x"))
    save("bus_subjects", "long", names(b"", b"", b"x" * 180, b"", b"", b"x" * 181))
    save("bus_subjects", "hash", names(b"a", b"b", b"_" * 70, b"a", b"b", b"_" * 71))


def sessions():
    requests = b"hello\nyield\nslow\nnone\ntwo\npush\nyes\nr\n"
    requests += b"x" * (-len(requests) % 8)
    ops = bytes([0, 10, 8, 4, 9, 30, 0, 200, 7, 5, 20, 8, 11, 40, 9, 3, 12, 7, 6, 8])

    def seed(name, bits, in_flight, queue, low, high, limit, stream, ops):
        stream += b"\n" * (-len(stream) % 8)
        head = bytes([bits, in_flight, queue, low, high, limit, len(stream) // 8])
        save("session_messages", name, head + stream + ops)

    seed("all", 0, 0, 3, 10, 30, 0, requests, ops)
    seed("in_flight", 0, 3, 5, 0, 5, 100, requests * 3, ops + bytes([1, 255, 8, 9, 7]))
    seed("unordered", 1, 4, 2, 20, 20, 9, requests * 2, bytes([0, 255, 4, 7, 5, 40, 7]))
    seed("delay", 2, 2, 2, 20, 60, 9, requests, bytes([0, 9, 13, 0, 90, 8, 10, 10, 11, 99]))
    seed("close", 0, 1, 1, 5, 9, 0, requests, bytes([0, 60, 4, 9, 9, 7, 10, 5, 14, 0]))
    seed("half_close", 0, 1, 1, 5, 9, 0, requests, bytes([0, 30, 9, 9, 7, 10, 5, 14, 1, 0, 30, 9, 3, 7, 11, 2, 0, 99, 6]))
    seed("reset", 0, 1, 1, 5, 9, 0, requests, bytes([0, 60, 12, 3, 9, 9, 7, 11, 5, 15, 0]))
    seed("closes", 0, 2, 1, 5, 9, 0, b"a\nslow\nclose\nnever\n", bytes([0, 255, 7]))
    seed("bad", 0, 0, 1, 5, 9, 0, b"a\n\xff\nnever\n", bytes([0, 255, 7]))
    seed("pushes", 0, 1, 4, 0, 0, 0, b"p1\np2\np3\np4\np5\n", bytes([4, 0, 255, 7, 9, 1, 9, 1, 5, 3, 7, 5, 9, 7]))

    def framed(name, bits, in_flight, queue, low, high, limit, stream, ops):
        stream += b"\n" * (-len(stream) % 8)
        head = bytes([in_flight, queue, low, high, limit, len(stream) // 8])
        for kind, transport in enumerate(["messages", "datagrams", "web_socket"]):
            save("session_framed", f"{name}_{transport}", bytes([bits | kind << 2]) + head + stream + ops)

    units = b"hello\n!lost\nyield\n#ping\nslow\nnone\n\ntwo\npush\nyes it has fragments\nr\n"
    framed("all", 0, 0, 3, 10, 30, 0, units, ops)
    framed("in_flight", 0, 3, 5, 0, 5, 100, units * 3, ops + bytes([1, 255, 8, 9, 7]))
    framed("unordered", 1, 4, 2, 20, 20, 9, units * 2, bytes([0, 255, 4, 7, 5, 40, 1, 3, 7, 0, 200, 7]))
    framed("delay", 2, 2, 2, 20, 60, 9, units, bytes([0, 9, 13, 0, 90, 8, 10, 10, 11, 99]))
    framed("close", 0, 1, 1, 5, 9, 0, units, bytes([0, 60, 4, 9, 9, 7, 10, 5, 14, 0]))
    framed("half_close", 0, 1, 1, 5, 9, 0, units, bytes([0, 30, 9, 9, 7, 10, 5, 14, 1, 0, 30, 9, 3, 7, 0, 99, 6]))
    framed("reset", 0, 1, 1, 5, 9, 0, units, bytes([0, 60, 12, 3, 9, 9, 7, 11, 5, 15, 0]))
    framed("closes", 0, 2, 1, 5, 9, 0, b"a\nslow\nclose\nnever\n", bytes([0, 255, 7]))
    framed("bad", 0, 0, 1, 5, 9, 0, b"a\n\xff\nlater\n", bytes([0, 255, 7, 0, 255]))
    framed("random", 0, 3, 3, 9, 30, 9, units * 2, bytes([15, 7, 0, 90, 9, 40, 14, 2, 7, 0, 90, 14, 3, 11, 99, 5, 9, 7, 0, 255]))

    push = bytes([0, 9] * 8 + [2, 30, 0, 9, 2, 9, 1, 99, 2, 255, 0, 0, 2, 1])
    for queue, high, low in [(4, 30, 10), (9, 0, 0), (2, 100, 100), (19, 9, 9), (19, 50, 0), (6, 199, 20)]:
        save("session_watermarks", f"{queue}_{high}_{low}", bytes([queue, high, low]) + push)
    burst = bytes([0x40, 5] * 12 + [0, 5, 2, 20, 0x42, 10, 0x40, 3, 2, 4])
    save("session_watermarks", "bursts", bytes([15, 20, 5]) + burst)
    for in_flight, high, low, limit, size in [(0, 0, 0, 0, 5), (3, 40, 10, 100, 20), (1, 100, 100, 199, 200), (2, 9, 0, 210, 1)]:
        save("session_reply_limit", f"{in_flight}_{limit}_{size}", bytes([in_flight, high, low, limit, size, 1, 10, 200, 0, 3]))


# ---- captures


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def captured(answer, run, length=65536):
    """Returns what a program sends to a server that sends `answer` once the first bytes have arrived."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(20)
    process = run(server.getsockname()[1])
    try:
        peer, _ = server.accept()
        peer.settimeout(1.5)
        data = b""
        try:
            while len(data) < length and (part := peer.recv(65536)):
                if not data and answer:
                    peer.sendall(answer(part) if callable(answer) else answer)
                data += part
        except (TimeoutError, ConnectionResetError):
            pass
        peer.close()
        return data
    finally:
        if isinstance(process, subprocess.Popen):
            process.kill()
            process.wait()
        server.close()


def quiet(*command):
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def accept(request):
    import base64
    import hashlib
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", request).group(1)
    value = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + value + b"\r\n"
    if b"permessage-deflate" in request:
        head += b"Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"
    return head + b"\r\n"


def neutral(data):
    """Removes what names this machine: ports of captures."""
    return re.sub(rb"127\.0\.0\.1:\d+", b"127.0.0.1:7000", data)


def split_request(name, data):
    end = data.find(b"\r\n\r\n") + 4
    head, frames = neutral(data[:end]), data[end:]
    save("ws_request", name, SEED + b"\x0c\x7f" + head)
    save("detect_ws", name, SEED + head + frames)
    extension = re.search(rb"(?i)sec-websocket-extensions: *(.*)\r", head)
    if extension:
        save("ws_deflate_offers", name, extension.group(1))
    elif frames:
        save("ws_frames", name, SEED + b"\x00\xfe\xfe" + frames)


def captures():
    curl = ["curl", "-sk", "--http1.1", "-m", "3"]
    if shutil.which("curl"):
        upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13", "-H",
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        split_request("curl", captured(accept, lambda port: quiet(*curl, *upgrade, f"http://127.0.0.1:{port}/chat")))
        save("detect_tls", "curl", SEED + b"\xff" + captured(b"", lambda port: quiet(*curl, f"https://127.0.0.1:{port}/")))
    if shutil.which("openssl"):
        for name, options in [("openssl_tls13", ["-tls1_3"]), ("openssl_tls12", ["-tls1_2", "-servername", "fuzz.test"])]:
            run = ["openssl", "s_client", *options, "-connect"]
            save("detect_tls", name, SEED + b"\xff" + captured(b"", lambda port: quiet(*run, f"127.0.0.1:{port}")))
    script = "const s=new WebSocket('ws://127.0.0.1:PORT/chat');s.onopen=()=>{s.send('h\\u00e9llo '.repeat(9));" \
        "s.send(new Uint8Array([0,255]));s.close(4000,'bye')}"
    if shutil.which("chromium"):
        with tempfile.TemporaryDirectory() as folder:
            def run(port):
                page = pathlib.Path(folder) / "page.html"
                page.write_text("<script>" + script.replace("PORT", str(port)) + "</script>")
                return quiet("chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/data", str(page))
            try:
                split_request("chromium", captured(accept, run))
            except TimeoutError:
                print("chromium did not connect", file=sys.stderr)
    haproxy()
    proxies()
    nats()


def haproxy():
    if not shutil.which("haproxy"):
        return
    for name, option in [
        ("haproxy_v1", "send-proxy"), ("haproxy_v2", "send-proxy-v2"),
        ("haproxy_v2_options", "send-proxy-v2 proxy-v2-options unique-id,crc32c"),
        ("haproxy_check", "check inter 200 send-proxy-v2 check-send-proxy"),
    ]:
        with tempfile.TemporaryDirectory() as folder:
            def run(port):
                front = free_port()
                config = pathlib.Path(folder) / "haproxy.cfg"
                config.write_text(
                    "defaults\n mode tcp\n timeout connect 2s\n timeout client 5s\n timeout server 5s\n"
                    f"listen a\n bind 127.0.0.1:{front}\n unique-id-format %[uuid]\n server s 127.0.0.1:{port} {option}\n")
                process = quiet("haproxy", "-db", "-f", str(config))
                if "check" not in name:
                    for _ in range(100):
                        try:
                            client = socket.create_connection(("127.0.0.1", front))
                            break
                        except OSError:
                            time.sleep(0.05)
                    client.sendall(b"hello\n")
                    run.client = client
                return process
            save("proxy_header", name, SEED + b"\0" + captured(b"", run))


def proxies():
    echo = socket.create_server(("127.0.0.1", 0))
    target = echo.getsockname()[1]
    closed = free_port()

    def ask(port, *steps):
        for _ in range(100):
            try:
                one = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                time.sleep(0.05)
        one.settimeout(3)
        reply = b""
        for step in steps:
            one.sendall(step)
            time.sleep(0.3)
            reply += one.recv(65536)
        return reply

    if shutil.which("tinyproxy"):
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            config = pathlib.Path(folder) / "tinyproxy.conf"
            config.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 5\nAllow 127.0.0.1\nBasicAuth user secret\n")
            process = quiet("tinyproxy", "-d", "-c", str(config))
            login = b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n"
            for name, to, head in [("tinyproxy_success", target, login), ("tinyproxy_failed", closed, login), ("tinyproxy_login", target, b"")]:
                request = f"CONNECT 127.0.0.1:{to} HTTP/1.1\r\nHost: a\r\n".encode() + head + b"\r\n"
                save("connect_reply", name, SEED + bytes([int(bool(head)), 0]) + neutral(ask(port, request)))
            process.kill()
            process.wait()
    if shutil.which("microsocks"):
        port = free_port()
        process = quiet("microsocks", "-i", "127.0.0.1", "-p", str(port), "-u", "user", "-P", "secret")
        login = b"\x01\x04user\x06secret"
        for name, to in [("microsocks_success", target), ("microsocks_failed", closed)]:
            request = b"\x05\x01\x00\x01\x7f\x00\x00\x01" + struct.pack(">H", to)
            save("socks5_reply", name, SEED + b"\x01" + ask(port, b"\x05\x02\x00\x02", login, request))
        save("socks5_reply", "microsocks_rejected", SEED + b"\x01" + ask(port, b"\x05\x02\x00\x02", b"\x01\x04user\x02no"))
        save("socks5_reply", "microsocks_none", SEED + b"\x00" + ask(port, b"\x05\x01\x00"))
        process.kill()
        process.wait()
    echo.close()


def nats():
    """The answers of a WebSocket server that is not getty's."""
    if not shutil.which("nats-server"):
        return
    with tempfile.TemporaryDirectory() as folder:
        port, client = free_port(), free_port()
        config = pathlib.Path(folder) / "nats.conf"
        config.write_text(f"listen: 127.0.0.1:{client}\nwebsocket {{ listen: 127.0.0.1:{port}, no_tls: true, compression: true }}\n")
        process = quiet("nats-server", "-c", str(config))
        time.sleep(1)
        for name, more in [("nats", ""), ("nats_deflate", "Sec-WebSocket-Extensions: permessage-deflate; "
                            "server_no_context_takeover; client_no_context_takeover\r\n")]:
            with socket.create_connection(("127.0.0.1", port)) as one:
                one.sendall((f"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n").encode())
                time.sleep(0.3)
                reply = one.recv(65536)
            head = reply[:reply.find(b"\r\n\r\n") + 4].replace(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", b"{accept}")
            save("ws_response", name, SEED + bytes([2 if more else 0, 60]) + head)
        process.kill()
        process.wait()


def pem():
    if not shutil.which("openssl"):
        return
    certificates = ROOT.parent / "certificates"
    chain, key = (certificates / "chain.pem").read_bytes(), (certificates / "key.pem").read_bytes()

    def openssl(*arguments, text=b""):
        return subprocess.run(["openssl", *arguments], input=text, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout

    save("pem", "chain", b"\0" + chain)
    save("pem", "key", b"\1" + key)
    save("pem", "chain_with_text", b"\0" + openssl("x509", "-text", text=chain))
    save("pem", "two", b"\0" + chain + b"\n# a comment\n" + chain)
    save("pem", "crlf", b"\1" + key.replace(b"\n", b"\r\n"))
    save("pem", "sec1", b"\1" + openssl("ec", text=key))
    save("pem", "params", b"\1" + openssl("ecparam", "-name", "prime256v1") + openssl("ec", text=key))
    save("pem", "ed25519", b"\1" + openssl("genpkey", "-algorithm", "ed25519"))
    save("pem", "rsa", b"\1" + openssl("genrsa", "-traditional", "1024"))
    save("pem", "encrypted", b"\1" + openssl("pkcs8", "-topk8", "-passout", "pass:secret", text=key))
    save("pem", "encrypted_old", b"\1" + openssl("ec", "-aes128", "-passout", "pass:secret", text=key))
    save("pem", "public", b"\1" + openssl("pkey", "-pubout", text=key))
    save("pem", "wrong_place", b"\0" + key)
    save("pem", "cut", b"\1" + key[:120])
    save("pem", "garbage", b"\1-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")


if __name__ == "__main__":
    by_hand = [codecs, formats, websocket, compression, edge, cluster, sessions]
    for make in by_hand if "--by-hand" in sys.argv else [*by_hand, pem, captures]:
        make()
    files = [file for file in ROOT.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} files, {size} bytes")
