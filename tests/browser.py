"""A headless Chromium, driven over the WebDriver protocol with nothing but the standard library."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

# Without these, Chromium looks for a screen, a graphics card and servers of its own.
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1180,1250"),
]


class Browser:
    """One window."""

    def __init__(self, address: str):
        self.address = address
        self.session = ""

    def call(self, method: str, path: str, body: object = None) -> object:
        """Send a command, and return what the driver answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}{self.session}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def run(self, script: str) -> object:
        """Run JavaScript in the page, and return what it returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(self, script: str, *, seconds: float = 30) -> None:
        """Wait until a condition in the page holds."""
        for _ in range(int(10 * seconds)):
            if self.run(script):
                return
            time.sleep(0.1)
        raise AssertionError(f"never true: {script}")

    def drag(self, path: list[tuple[int, int]]) -> None:
        """Press the mouse at the first point of the window, move it along the others, and release it."""
        moves = [{"type": "pointerMove", "x": x, "y": y, "duration": 50} for x, y in path]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self.call("POST", "/actions", {"actions": [mouse]})


@contextmanager
def open_browser():
    """A browser for the length of a block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    profile = tempfile.mkdtemp()
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    browser = Browser(f"http://127.0.0.1:{port}")
    try:
        for _ in range(100):
            try:
                browser.call("GET", "/status")
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        options = {"goog:chromeOptions": {"args": [*FLAGS, f"--user-data-dir={profile}"]}}
        options["goog:loggingPrefs"] = {"browser": "ALL"}
        opened = browser.call("POST", "/session", {"capabilities": {"alwaysMatch": options}})
        browser.session = f"/session/{opened['sessionId']}"
        yield browser
        browser.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()
        shutil.rmtree(profile, ignore_errors=True)
