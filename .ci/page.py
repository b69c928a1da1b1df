#!/usr/bin/env python3
"""Tests the chat's page in headless Chromium over WebDriver, with TCP clients in the same rooms.

Usage: .ci/page SCREENSHOTS CHAT...

SCREENSHOTS is the folder for the screenshots. CHAT... is the command that starts the chat. The
script needs chromedriver, Chromium and nc. It uses only Python's standard library. Each step is
printed when it succeeds. The first step that fails ends the script.
"""

import base64
import contextlib
import http.client
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

PAGE = "http://127.0.0.1:7080/"
PATIENCE = 20  # timeout of each wait, in seconds
ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # key of an element in WebDriver's JSON


def until(what, look, told=None):
    """Polls `look` until it returns a true value. A timeout reports the present state."""
    end = time.monotonic() + PATIENCE
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"timed out waiting for {what}" + (f"; found {told()}" if told else ""))
        time.sleep(0.05)


def check(what, holds):
    if not holds:
        raise AssertionError(what)
    print(f"  {what}", flush=True)


class Driver:
    """chromedriver. It starts a browser for each window, so that each window is a separate user."""

    def __init__(self, folder):
        # port 0: it selects a free port and prints it
        self.process = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.folder, self.windows = folder, 0
        for line in self.process.stdout:
            if "was started successfully on port" in line:
                self.url = f"http://127.0.0.1:{line.strip().rstrip('.').split()[-1]}"
                return
        raise AssertionError("chromedriver does not start")

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {json.load(error)['value']['message']}") from None

    def window(self, width, height, phone=False):
        self.windows += 1
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--hide-scrollbars", f"--window-size={width},{height}",
            f"--user-data-dir={self.folder}/profile-{self.windows}",
        ]  # fmt: skip
        options = {"args": arguments}
        if phone:
            options["mobileEmulation"] = {
                "deviceMetrics": {"width": width, "height": height, "pixelRatio": 2, "touch": True}
            }
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        return Window(self, f"/session/{session['sessionId']}")

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Window:
    """A browser window with the page."""

    def __init__(self, driver, path):
        self.driver, self.path = driver, path

    def call(self, method, path, body=None):
        return self.driver.call(method, self.path + path, body)

    def open(self, url=PAGE):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        body = {"using": "css selector", "value": selector}
        return self.call("POST", "/element", body)[ELEMENT]

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector, text):
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def clear(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/clear", {})

    def focus(self):
        return self.run("return document.activeElement.id")

    def press(self, key):
        """Presses a key in the focused element."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def role_and_name(self, selector):
        element = self.find(selector)
        role = self.call("GET", f"/element/{element}/computedrole")
        return role, self.call("GET", f"/element/{element}/computedlabel")

    def texts(self, selector):
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent.trim())",
            selector,
        )

    def sees(self, selector, text):
        until(f"{text!r} in {selector}", lambda: text in self.texts(selector), lambda: self.texts(selector))
        print(f"  page: {selector} has {text[:60]!r}", flush=True)

    def devtools(self, command, **parameters):
        self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self, file):
        # all animations must have ended
        self.run("document.getAnimations().forEach((appearing) => appearing.finish())")
        file.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))
        print(f"  saved {file}", flush=True)

    def complaints(self):
        """Returns the messages of the browser's console: policy violations and script errors."""
        return [entry["message"] for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def close(self):
        self.call("DELETE", "")


class Client:
    """A user at a terminal: nc."""

    def __init__(self, folder, name):
        self.file = open(f"{folder}/{name}", "w+b")
        self.nc = subprocess.Popen(["nc", "127.0.0.1", "7000"], stdin=subprocess.PIPE, stdout=self.file)

    def type(self, line):
        self.nc.stdin.write(line.encode() + b"\n")
        self.nc.stdin.flush()

    def hears_welcome(self):
        until("the welcome", lambda: any("try /help" in line for line in self.lines()), self.lines)

    def lines(self):
        return pathlib.Path(self.file.name).read_text(errors="replace").splitlines()

    def hears(self, line):
        until(f"{line!r}", lambda: line in self.lines(), self.lines)
        print(f"  nc:   {line}", flush=True)

    def close(self):
        self.nc.kill()
        self.nc.wait()
        self.file.close()


class Chat:
    """The chat server. It can be frozen, killed and terminated."""

    def __init__(self, command, folder):
        self.command, self.output = command, pathlib.Path(folder, "chat.out")
        self.start()

    def start(self):
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=subprocess.STDOUT)
        until("the chat to listen", lambda: "page on http://127.0.0.1:7080/" in self.said(), self.said)

    def said(self):
        return self.output.read_text(errors="replace").splitlines()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self):
        self.process.terminate()
        status = self.process.wait(timeout=PATIENCE)
        check("the chat exits with status 0", status == 0)


def policy_and_origin():
    with urllib.request.urlopen(PAGE) as answer:
        policy = answer.headers["Content-Security-Policy"]
    check("the policy is strict", "default-src 'none'" in policy and "unsafe" not in policy)
    ours, theirs = "127.0.0.1:7080", "elsewhere.example"
    # a page of another site may send its requests here (DNS rebinding)
    for host, origin, answer in [(ours, theirs, 403), (theirs, theirs, 403), (ours, ours, 101)]:
        upgrade = {
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Host": host, "Origin": f"http://{origin}",
        }  # fmt: skip
        try:
            # urllib cannot be used because it sets the Connection header itself
            connection = http.client.HTTPConnection("127.0.0.1", 7080, timeout=PATIENCE)
            connection.request("GET", "/lines", headers=upgrade)
            status = connection.getresponse().status
        finally:
            connection.close()
        check(f"a request to {host} from a page of {origin} returns {answer}", status == answer)


def no_horizontal_scrolling(window):
    within = window.run(
        "return [document.documentElement, document.getElementById('log')]"
        ".every((e) => e.scrollWidth <= e.clientWidth)"
    )
    check("nothing scrolls horizontally", within)


def accessible_names(window):
    """Checks the roles and names that a screen reader uses."""
    for selector, expected in {
        "#log": ("log", "Messages"),
        "#line": ("textbox", "Message"),
        "#send": ("button", "Send"),
        "#name": ("textbox", "Your name"),
        "#where": ("textbox", "Room"),
        "#phase": ("status", None),
    }.items():
        role, name = window.role_and_name(selector)
        check(f"{selector} has the role {role} and the name {name!r}", (role, expected[1] or name) == (expected[0], name))


def main(screenshots, command):
    screenshots.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())

        def client(name):
            nc = Client(folder, name)
            stack.callback(nc.close)
            nc.hears_welcome()
            return nc

        chat = Chat(command, folder)
        stack.callback(chat.kill)
        driver = Driver(folder)
        stack.callback(driver.stop)
        policy_and_origin()

        print("page and terminal")
        ada = client("ada")
        ada.type("/name ada")
        page = driver.window(1100, 760)
        stack.callback(page.close)
        page.open()
        page.sees("#phase", "connected")
        page.sees("#people bdi", "ada")
        accessible_names(page)
        guest = page.run("return me.name")
        page.clear("#name")
        page.type("#name", "grace")
        page.click("#rename button")
        ada.hears(f"* {guest} is now grace")
        ada.type("Hello! I am in a terminal. Who is there?")
        page.sees(".message .text", "Hello! I am in a terminal. Who is there?")
        page.type("#line", "Me, in a browser. The same rooms, the same stack.")
        page.click("#send")
        ada.hears("grace: Me, in a browser. The same rooms, the same stack.")
        page.sees(".mine .text", "Me, in a browser. The same rooms, the same stack.")
        until("the confirmation", lambda: page.texts("[data-fate=delivered] .text"))
        ada.type("Only the transport differs.")
        page.sees(".message .text", "Only the transport differs.")

        print("keyboard only")
        page.type("#line", "typed and sent with keys" + TAB)
        check("tab moves the focus from the field to the button", page.focus() == "send")
        page.press(ENTER)
        ada.hears("grace: typed and sent with keys")
        check("the focus returns to the field", page.focus() == "line")
        page.screenshot(screenshots / "desktop.png")
        page.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        page.screenshot(screenshots / "dark.png")
        page.devtools("Emulation.setEmulatedMedia", features=[])

        print("text that must not become markup or change the layout")
        hostile = [
            "<img src=x onerror=alert(1)><b>bold</b>&amp;",
            "\u202eright to left, and not undone \u2066",
            "Z" + "\u0351\u0352\u0357" * 60,
            "w" * 1024,
        ]
        for line in hostile:
            ada.type(line)
            page.sees(".message .text", line)
        ada.type("\x1b[2Jcontrol\x07")
        page.sees(".message .text", "[2Jcontrol")
        check("the text created no elements", page.run("return document.querySelectorAll('#log img, #log b').length") == 0)
        no_horizontal_scrolling(page)

        print("another room and a phone")
        page.clear("#where")
        page.type("#where", "tea" + ENTER)
        ada.hears("* grace has left for tea")
        page.sees("#room", "tea")
        phone = driver.window(390, 844, phone=True)
        stack.callback(phone.close)
        phone.open(PAGE + "#tea")
        phone.sees("#phase", "connected")
        phone.sees("#people bdi", "grace")
        guest = phone.run("return me.name")
        page.sees("#people bdi", guest)
        ada.type("/join tea")
        ada.type("I brought biscuits, and a very long word: " + "n" + "o" * 60)
        page.type("#line", "Two pages and a terminal in one room!" + ENTER)
        phone.sees(".message .text", "Two pages and a terminal in one room!")
        phone.type("#line", "Hello from a phone")
        phone.click("#send")
        ada.hears(f"{guest}: Hello from a phone")
        no_horizontal_scrolling(phone)
        phone.screenshot(screenshots / "phone.png")
        phone.click("#show")
        check("the list of people opens", phone.focus() == "panel")
        phone.screenshot(screenshots / "phone-people.png")
        phone.press(ESCAPE)
        check("the list of people closes", phone.focus() == "show")

        print("server restart")
        chat.freeze()
        page.type("#line", "is anybody there?" + ENTER)
        chat.kill()
        page.sees("#phase", "not connected")
        until("the doubtful message", lambda: page.texts(".unsure .text") == ["is anybody there?"])
        page.type("#line", "kept while there is no connection" + ENTER)
        chat.start()
        page.sees("#phase", "connected")
        bob = client("bob")
        bob.type("/join tea")
        bob.type("/who")
        until("grace to be in tea", lambda: any("* in tea:" in line and "grace" in line for line in bob.lines()))
        page.click("#line")
        page.press(ENTER)
        bob.hears("grace: kept while there is no connection")
        page.click(".unsure button")
        bob.hears("grace: is anybody there?")
        until("no doubtful message", lambda: not page.texts(".unsure .text"))

        print("shutdown")
        phone.sees("#phase", "connected")
        chat.terminate()
        page.sees(".notice", "the server is going down: goodbye")
        print("  " + "\n  ".join(chat.said()))
        check("all sessions finished", any(line.endswith(" finished, 0 aborted") for line in chat.said()))
        complaints = [text for window in (page, phone) for text in window.complaints()]
        # the browser also logs failed connection attempts and messages of its internal pages
        others = ("WebSocket connection to", "chrome://")
        complaints = [text for text in complaints if not any(other in text for other in others)]
        check(f"the console has no messages {complaints or ''}", not complaints)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(pathlib.Path(sys.argv[1]), sys.argv[2:])
    except AssertionError as error:
        sys.exit(f"error: {error}")
