"""Chromium's WebSocket against getty's echo server. Usage: ws-deflate-page.py URL"""

import http.server
import importlib.util
import pathlib
import sys
import tempfile
import threading

spec = importlib.util.spec_from_file_location("page", pathlib.Path(__file__).parents[1] / "page.py")
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)

SCRIPT = """
const [url, done] = arguments;
const messages = ['', 'x', 'hello '.repeat(100), JSON.stringify([...Array(3000).keys()].map((id) => ({id}))),
  'äöü€'.repeat(20000), 'z'.repeat(1000000)];
const ws = new WebSocket(url);
let at = 0, failed, extensions;
ws.onopen = () => {
  extensions = ws.extensions;
  ws.send(messages[0]);
};
ws.onmessage = ({data}) => {
  if (data !== messages[at]) failed = `${at} came back as ${data.length} characters`;
  at += 1;
  if (failed || at === messages.length) ws.close();
  else ws.send(messages[at]);
};
ws.onclose = ({code}) => done([failed, extensions, at, code]);
"""



class Empty(http.server.BaseHTTPRequestHandler):
    """Serves an empty page. A page without an address may not connect to this machine."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_):
        pass


pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
threading.Thread(target=pages.serve_forever, daemon=True).start()

with tempfile.TemporaryDirectory() as folder:
    driver = page.Driver(folder)
    try:
        window = driver.window(400, 300)
        window.open(f"http://127.0.0.1:{pages.server_port}/")
        window.call("POST", "/timeouts", {"script": 60_000})
        failed, extensions, echoed, code = window.call(
            "POST", "/execute/async", {"script": SCRIPT, "args": [sys.argv[1]]}
        )
        assert extensions is not None, f"no connection: {code}"
        assert not failed, failed
        assert extensions.startswith("permessage-deflate"), f"not agreed: {extensions!r}"
        assert (echoed, code) == (6, 1005), (echoed, code)
        print(f"  Chromium agreed on {extensions!r}, and every message came back")
    finally:
        driver.stop()
