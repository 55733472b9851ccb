"""A Chromium, driven by its DevTools protocol over two pipes: commands out, answers and events in.

The protocol: https://chromedevtools.github.io/devtools-protocol/. Messages are JSON and end in NUL;
Chromium reads them from descriptor 3 and writes them to descriptor 4 (--remote-debugging-pipe).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIMEOUT_S = 120
"""How long an answer may take on a busy machine; it takes milliseconds."""

_START = (
    "import fcntl, os, sys; "
    "read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]); "
    "os.dup2(read, 3); os.dup2(write, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
_KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    " ": (32, " "),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}


class Chromium:
    """A browser in a process of its own, with a profile to throw away. Use it as a context."""

    def __init__(self, path: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        for fd in (read, write):
            os.set_inheritable(fd, True)
        options = ["--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]
        options += ["--disable-extensions", "--disable-background-networking", "--mute-audio"]
        options += ["--disable-dev-shm-usage", f"--user-data-dir={self._profile.name}"]
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(read), str(write), path, *options],
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._profile.cleanup()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, event: str, session: str) -> None:
        """Wait for an event of a session."""
        while True:
            found = [
                one
                for one in self.events
                if (one.get("method"), one.get("sessionId")) == (event, session)
            ]
            if found:
                self.events.remove(found[0])
                return
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            data = os.read(self._in, 1 << 16)
            if not data:
                raise BrokenPipeError("Chromium has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        made: dict[str, Any] = json.loads(message)
        return made


class Tab:
    """A page that is open, as somebody sees it and types into it."""

    def __init__(self, browser: Chromium, *, width: int = 1280, dark: bool = False) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._target, self._session = target, attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def close(self) -> None:
        """Close it."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is loaded."""
        self._call("Page.navigate", url=path.absolute().as_uri())
        self._browser.wait_for("Page.loadEventFired", self._session)

    def javascript_off(self) -> None:
        """Run no script in what is opened from here on."""
        self._call("Emulation.setScriptExecutionDisabled", value=True)

    def eval(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """Return what is seen of an element."""
        found = self.eval(f"document.querySelector({json.dumps(selector)})?.innerText")
        assert found is not None, f"there is no {selector}"
        return str(found)

    def is_seen(self, selector: str) -> bool:
        """Return whether an element has a place on the page."""
        return bool(
            self.eval(f"!!document.querySelector({json.dumps(selector)})?.getClientRects().length")
        )

    def click(self, selector: str) -> None:
        """Bring an element into sight and click on its middle, with the mouse."""
        place = self.eval(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center', inline: 'center'});"
            "const box = one.getBoundingClientRect();"
            "return [box.left + box.width / 2, box.top + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
            )

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a list."""
        self.eval(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            f"one.value = {json.dumps(value)};"
            "one.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            code, text = _KEYS[key]
            given = {"key": key, "windowsVirtualKeyCode": code}
            self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **given)
            self._call("Input.dispatchKeyEvent", type="keyUp", **given)

    def complaints(self) -> list[str]:
        """Return what the browser has to complain of: exceptions, refused styles and scripts."""
        self.eval("0")
        return [
            json.dumps(one["params"])
            for one in self._browser.events
            if one.get("sessionId") == self._session
            and one["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
        ]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page."""
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(data["data"]))

    def pdf(self, path: Path) -> None:
        """Print the page into a file."""
        data = self._call("Page.printToPDF", printBackground=False)
        path.write_bytes(base64.b64decode(data["data"]))
