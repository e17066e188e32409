"""The examples run as their READMEs say; the proxy's is ``web/test_llm_proxy.py``, and all are typed (``test_typing.py``)."""

import os
import re
import runpy
import subprocess
import sys

import pytest
from werkzeug.test import Client

import paths

EXAMPLES = paths.ROOT / "examples"
FOLDERS = sorted(folder for folder in EXAMPLES.iterdir() if (folder / "main.py").exists())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_has_a_readme_that_names_what_is_there(folder):
    """Each file that it names is one."""
    text = (folder / "README.md").read_text("utf-8")
    named = re.findall(r"examples/[\w/]+\.\w+", text)
    assert all((paths.ROOT / name).is_file() for name in named)
    assert "pip install" in text


def test_the_control_plane():
    """Two calls admitted and the third refused, and the API tells what was used."""
    env = os.environ | {"PYTHONPATH": str(paths.ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "examples/control_plane/main.py"],
        cwd=paths.ROOT, env=env, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    allowed, used = done.stdout.splitlines()
    assert allowed == "[True, True, False]"
    assert re.fullmatch(r"\{'\w+': \[\[2, 0\]\]\}", used)


def test_the_usage_page():
    """What is limited asks for the key and counts it; the page shows it and counts nothing."""
    names = runpy.run_path(str(EXAMPLES / "usage_page" / "main.py"))
    client, headers = Client(names["app"]), {"x-api-key": names["secret"]}
    assert client.get("/pets").status_code == 403
    assert client.get("/pets", headers=headers).json == {"pets": ["Rex", "Mia"]}
    for _ in range(2):
        told = client.get("/usage", headers=headers).json
        assert told["plans"][0]["limits"][0]["used"] == 1
