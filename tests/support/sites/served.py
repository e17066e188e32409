"""A server in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

import paths

HERE = paths.TESTS / "support" / "sites"
PATIENCE = 30


class Served:
    """A server in processes of its own, up once each of its workers is; what it logs is kept."""

    def __init__(self, *command, ready, workers, **environment):
        path = os.pathsep.join(map(str, (paths.PACKAGE.parent, HERE)))
        self.log = []
        self._up = threading.Event()
        self._ready, self._workers = ready, workers
        self.url = None
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._up.wait(PATIENCE):
            self.stop()
            raise RuntimeError(self.text)

    def _read(self):
        for line in self.process.stdout:
            self.log.append(line)
            listening = re.search(r"http://127\.0\.0\.1:\d+", line)
            self.url = self.url or (listening and listening[0])
            if self.url and self.text.count(self._ready) >= self._workers:
                self._up.set()

    @property
    def text(self):
        return "".join(self.log)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self.process.stdout.close()
