"""Chromium's WebSocket against getty's echo server. Usage: ws-deflate-page.py URL"""

import importlib.util
import pathlib
import sys
import tempfile

spec = importlib.util.spec_from_file_location("page", pathlib.Path(__file__).parents[1] / "page.py")
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)

SCRIPT = """
const [url, done] = arguments;
const messages = ['', 'x', 'hello '.repeat(100), JSON.stringify([...Array(3000).keys()].map((id) => ({id}))),
  'äöü€'.repeat(20000), 'z'.repeat(1000000)];
const ws = new WebSocket(url);
let at = 0, failed;
ws.onopen = () => ws.send(messages[0]);
ws.onmessage = ({data}) => {
  if (data !== messages[at]) failed = `${at} came back as ${data.length} characters`;
  at += 1;
  if (failed || at === messages.length) ws.close();
  else ws.send(messages[at]);
};
ws.onclose = ({code}) => done([failed, ws.extensions, at, code]);
"""

with tempfile.TemporaryDirectory() as folder:
    driver = page.Driver(folder)
    try:
        window = driver.window(400, 300)
        window.open("about:blank")
        window.call("POST", "/timeouts", {"script": 60_000})
        failed, extensions, echoed, code = window.call(
            "POST", "/execute/async", {"script": SCRIPT, "args": [sys.argv[1]]}
        )
        assert not failed, failed
        assert extensions.startswith("permessage-deflate"), f"not agreed: {extensions!r}"
        assert (echoed, code) == (6, 1005), (echoed, code)
        print(f"  Chromium agreed on {extensions!r}, and every message came back")
    finally:
        driver.stop()
