"""Terraform's own AWS provider against ``quota serve aws``: make test-terraform.

``QUOTA_TF_PLUGINS`` may name a folder of plugins (a filesystem mirror); else they come from Terraform's registry.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet

import paths
from quota import Ledger

pytestmark = pytest.mark.terraform

EXAMPLE = paths.ROOT / "examples" / "control_plane" / "main.tf"
OTHER_PLAN = """
  name         = "platinum"
  description  = "for the large"
  product_code = "pc"
  tags         = { team = "x" }
  api_stages {
    api_id = "shop"
    stage  = "test"
  }
  api_stages {
    api_id = "shop"
    stage  = "prod"
    throttle {
      path        = "/pets/GET"
      rate_limit  = 5
      burst_limit = 7
    }
  }
  quota_settings {
    limit  = 6000
    offset = 2
    period = "WEEK"
  }
  throttle_settings {
    rate_limit  = 100.5
    burst_limit = 200
  }
"""
OTHER_KEY = """
  name        = "acme inc"
  description = "key of acme"
  enabled     = false
  customer_id = "c1"
  tags        = { team = "y" }
"""


@pytest.fixture
def served(tmp_path):
    """(URL, store's URL) of a control plane in a process of its own, as the example's first lines start it."""
    (tmp_path / "credentials.json").write_text('{"AKIDEXAMPLE": "wJalrXUtnFEMI"}')
    (tmp_path / "values.key").write_text(Fernet.generate_key().decode())
    store = f"sqlite:///{tmp_path}/usage.db"
    process = subprocess.Popen(
        [sys.executable, "-m", "quota", "serve", "aws", "--store", store, "--port", "0", "--credentials",
         tmp_path / "credentials.json", "--reveal", tmp_path / "values.key"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(paths.PACKAGE.parent)},
    )  # fmt: skip
    try:
        yield re.search(r"http://[0-9.:]+", process.stderr.readline())[0], store
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture
def terraform(tmp_path):
    """Run a command of Terraform in a folder of its own; gives its exit status and what it said."""
    folder = tmp_path / "terraform"
    folder.mkdir()
    settings = {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    if mirror := os.environ.get("QUOTA_TF_PLUGINS"):
        (folder / "settings.rc").write_text(
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n'
        )
        settings["TF_CLI_CONFIG_FILE"] = str(folder / "settings.rc")

    def run(*arguments, good=(0,)):
        done = subprocess.run(
            ["terraform", *arguments, "-no-color"], cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode in good, done.stdout + done.stderr
        return done.stdout

    run.folder = folder
    return run


def resource(text, kind, inside):
    """A configuration in which one resource of this kind has this inside."""
    return re.sub(
        rf'(resource "{kind}" "\w+" {{\n).*?\n}}', lambda found: f"{found[1]}{inside}}}", text, flags=re.DOTALL
    )


def test_a_life(served, terraform):
    """Made, changed, imported into an empty state, destroyed: after each step Terraform finds no difference."""
    url, store = served
    config = terraform.folder / "main.tf"
    text = EXAMPLE.read_text("utf-8").replace("http://127.0.0.1:8080", url)
    config.write_text(text)
    terraform("init")
    assert "3 added" in terraform("apply", "-auto-approve")
    terraform("plan", "-detailed-exitcode")
    value = json.loads(terraform("output", "-json"))["value"]["value"]
    with Ledger(store) as ledger:
        assert ledger.consume(value, api="shop/prod").limits[0].remaining == 4999

    text = resource(text, "aws_api_gateway_usage_plan", OTHER_PLAN.lstrip("\n"))
    config.write_text(resource(text, "aws_api_gateway_api_key", OTHER_KEY.lstrip("\n")))
    assert "2 changed" in terraform("apply", "-auto-approve")
    terraform("plan", "-detailed-exitcode")
    assert json.loads(terraform("output", "-json"))["value"]["value"] == value

    state = terraform.folder / "terraform.tfstate"
    resources = json.loads(state.read_text())["resources"]
    ids = {one["type"]: one["instances"][0]["attributes"]["id"] for one in resources}
    plan, key = ids["aws_api_gateway_usage_plan"], ids["aws_api_gateway_api_key"]
    state.unlink()
    imports = [
        ("aws_api_gateway_usage_plan.gold", plan), ("aws_api_gateway_api_key.acme", key),
        ("aws_api_gateway_usage_plan_key.acme", f"{plan}/{key}"),
    ]  # fmt: skip
    block = "import {{\n  to = {}\n  id = {}\n}}\n"
    (terraform.folder / "imports.tf").write_text("".join(block.format(to, json.dumps(id_)) for to, id_ in imports))
    assert "3 imported, 0 added, 0 changed" in terraform("apply", "-auto-approve")
    terraform("plan", "-detailed-exitcode")

    (terraform.folder / "imports.tf").unlink()
    assert "3 destroyed" in terraform("destroy", "-auto-approve")
    with Ledger(store) as ledger:
        assert ledger.list_keys() == ledger.list_plans() == []
        assert {event.actor for event in ledger.events() if event.kind != "limit.crossed"} == {"AKIDEXAMPLE"}
