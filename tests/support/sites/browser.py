"""Debian's Chromium, without a window, driven by its own protocol (CDP)."""

import base64
import json
import os
import subprocess
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from websockets.sync.client import connect

import paths

FOLDER = Path(os.environ.get("QUOTA_CHROMIUM", paths.ROOT / ".venv" / "chromium"))
AXE = FOLDER / "axe.min.js"


class Browser:
    """One page of it: ``send`` a command, ``events`` that came meanwhile."""

    def __init__(self, socket):
        self.socket, self.numbers, self.events, self.session = socket, count(1), [], None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        number = next(self.numbers)
        more = {"sessionId": self.session} if self.session else {}
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters, **more}))
        while True:
            told = json.loads(self.socket.recv(timeout=60))
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]
            self.events.append(told)

    def wait(self, method):
        """The next event of a kind, those that came before it kept."""
        seen = len(self.events)
        while not any(event.get("method") == method for event in self.events[seen:]):
            self.events.append(json.loads(self.socket.recv(timeout=60)))

    def go(self, url):
        self.send("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def run(self, script):
        """What a script comes to, awaited."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, path):
        Path(path).write_bytes(
            base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        )


@contextmanager
def browsing(profile):
    """A browser with a profile of its own, ended afterwards."""
    root, library = FOLDER / "usr", FOLDER / "usr" / "lib"
    libraries = [
        library / "x86_64-linux-gnu",
        library / "aarch64-linux-gnu",
        library / "chromium",
        FOLDER / "lib" / "x86_64-linux-gnu",
        library / "x86_64-linux-gnu" / "pulseaudio",
    ]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(profile), "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "XDG_DATA_HOME": str(root / "share"), "FONTCONFIG_PATH": str(FOLDER / "etc" / "fonts"),
    }  # fmt: skip
    command = [
        str(library / "chromium" / "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if "DevTools listening on " in line:
                    break
            else:
                raise AssertionError("".join(said))
            with connect(line.partition(" on ")[2].strip(), max_size=None) as socket:
                yield Browser(socket)
        finally:
            process.kill()
