"""A headless Chromium that tests look at a page with, over the DevTools protocol on two pipes.

In come what to open, click and type, out go what a page shows, what it asked for and what its
console says. Nothing but Chromium has to be installed: no port is opened, no driver is needed.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0  # far more than anything here takes

# Chromium itself looks for updates and more; what pages ask for is seen in their own requests.
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--remote-debugging-pipe", "about:blank"),
)


def found_chromium() -> str | None:
    """Returns the program, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """A page of a browser.

    Attributes:
        requests: the addresses that it asked for
        complaints: what its console said of errors and warnings, and what it threw
    """

    def __init__(self, browser: "Browser", width: int, height: int) -> None:
        self.browser = browser
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)
        self.session = attached["sessionId"]
        browser.tabs[self.session] = self
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)

    def heard(self, method: str, params: dict[str, Any]) -> None:
        """Takes what the browser says of this page without being asked."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", str(details)))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            said = [each.get("value", each.get("description")) for each in params["args"]]
            self.complaints.append(" ".join(map(str, said)))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def value(self, expression: str) -> Any:
        """Returns what an expression of JavaScript is there."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = SECONDS) -> Any:
        """Returns what an expression is as soon as that is true; what it throws is not."""
        expression = f"(() => {{ try {{ return {expression} }} catch {{ return false }} }})()"
        end = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < end, f"never true: {expression}\n{self.text()}"
            time.sleep(0.02)
        return found

    def text(self) -> str:
        return self.value("document.body ? document.body.innerText : ''")

    def click(self, element: str) -> None:
        """Clicks where an element is, as a visitor does; it is an expression of JavaScript."""
        self.wait_for(f"!!{element}")
        self.value(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.value(f"{element}.getBoundingClientRect().toJSON()")
        where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def fill(self, element: str, text: str) -> None:
        """Replaces what stands in a field by a text, as if it was typed."""
        self.click(element)
        self.value(f"{element}.select()")
        if text:
            self.call("Input.insertText", text=text)
        else:
            self.press("Backspace", 8)

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **typed
            )

    def screenshot(self, file: Path) -> None:
        """Takes a picture of all of the page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(found["data"]))


class Browser:
    """A running Chromium; what it sends is read by a thread of its own."""

    def __init__(self, send: Callable[[bytes], Any], received: Iterator[bytes]) -> None:
        self.send = send
        self.tabs: dict[str, Tab] = {}
        self.answers: dict[int, SimpleQueue[dict[str, Any]]] = {}
        self.lock = threading.Lock()
        self.num_sent = 0
        threading.Thread(target=self.listen, args=[received], daemon=True).start()

    def listen(self, received: Iterator[bytes]) -> None:
        for message in map(json.loads, received):
            if "id" in message:
                self.answers.pop(message["id"]).put(message)
            elif tab := self.tabs.get(message.get("sessionId", "")):
                tab.heard(message["method"], message["params"])

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        with self.lock:
            self.num_sent += 1
            number = self.num_sent
            answer = self.answers[number] = SimpleQueue()
            message: dict[str, Any] = {"id": number, "method": method, "params": params}
            if session is not None:
                message["sessionId"] = session
            self.send(json.dumps(message).encode() + b"\0")
        try:
            found = answer.get(timeout=SECONDS)
        except Empty:
            raise AssertionError(f"the browser does not answer {method}") from None
        assert "error" not in found, (method, found["error"])
        return found["result"]

    def tab(self, width: int = 1280, height: int = 900) -> Tab:
        return Tab(self, width, height)


def messages_of(descriptor: int) -> Iterator[bytes]:
    """Yields what is read from a pipe, message by message; each ends with a zero byte."""
    rest = b""
    while part := os.read(descriptor, 1 << 16):
        *whole, rest = (rest + part).split(b"\0")
        yield from whole


@contextmanager
def running_browser(program: str) -> Iterator[Browser]:
    """Runs a Chromium with a home of its own; it is gone after the block."""
    to_browser, from_us = os.pipe()
    from_browser, to_us = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        # it reads from 3 and writes to 4, whatever numbers the pipes have here
        script = f'exec "$0" "$@" 3<&{to_browser} 4>&{to_us}'
        process = subprocess.Popen(
            ["bash", "-c", script, program, f"--user-data-dir={home}", *OPTIONS],
            pass_fds=[to_browser, to_us],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home},
        )
        os.close(to_browser), os.close(to_us)
        browser = Browser(lambda data: os.write(from_us, data), messages_of(from_browser))
        try:
            yield browser
            browser.call("Browser.close")
            process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
            os.close(from_us)
