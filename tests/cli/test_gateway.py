"""quota import-aws, export-aws and key import --csv: all or nothing, told, and back again."""

from __future__ import annotations

import pytest

from commands import Quota
from gateway import ACME, GOLD, LINK, ODD_KEYS, ODD_PLANS, VALUE, A, B, read, write
from quota.errors import StoreUnavailable


@pytest.fixture
def quota():
    return Quota()


def test_a_directory_is_imported_and_exported_again(quota, tmp_path):
    """The same files come back; the keys work, and their values are nowhere in the output."""
    source = write(tmp_path / "in", n371pt=[LINK])
    made = quota.json("import-aws", source)
    assert made == {"plans": ["n371pt"], "keys": [ACME["id"]], "associations": 1, "notes": [], "warnings": []}
    assert quota("consume", "-", "--api", "a1b2c3d4e5/prod", "--route", "GET /pets", data=VALUE) == 0
    assert quota.json("key", "show", "acme")["plans"] == ["n371pt"]
    assert quota("export-aws", tmp_path / "out", "--secrets", source / "api-keys.json") == 0
    assert VALUE not in quota.out + quota.err
    assert read(tmp_path / "out") == read(source)
    done = quota.json("export-aws", tmp_path / "out2")
    assert done["files"] == ["api-keys.json", "usage-plan-keys-n371pt.json", "usage-plans.json"]
    assert "without a value" in done["notes"][0]


def test_a_round_trip_loses_nothing(quota, tmp_path):
    """Whatever has no counterpart is kept beside and put back."""
    source = write(tmp_path / "in", ODD_PLANS, ODD_KEYS)
    assert quota("import-aws", source) == 4
    assert "exit status 4" in quota.err
    out = tmp_path / "out"
    assert quota("export-aws", out, "--secrets", source / "api-keys.json") == 0
    assert read(out)["usage-plans.json"] == sorted(ODD_PLANS, key=lambda plan: plan["id"])
    assert read(out)["api-keys.json"] == ODD_KEYS
    assert "has no counterpart" not in quota.err


def test_files_one_by_one_and_an_api_for_all(quota, tmp_path):
    """--plans, --keys, --plan-keys; --api in place of stages."""
    source = write(tmp_path / "in", link=[LINK])
    files = ("--keys", source / "api-keys.json", "--plan-keys", f"n371pt={source / 'usage-plan-keys-link.json'}")
    plans = (source / "usage-plans.json").read_text()
    assert quota("import-aws", "--plans", "-", *files, "--api", "", data=plans) == 0
    assert quota("consume", "-", data=VALUE) == 0
    assert quota.json("import-aws", "--plans", source / "usage-plans.json", "--api", "")["keys"] == []


@pytest.mark.parametrize("broken", ["usage-plans.json", "api-keys.json", "usage-plan-keys-n371pt.json"])
def test_a_half_written_file_changes_nothing(quota, tmp_path, broken):
    """One line that names it."""
    source = write(tmp_path / "in", n371pt=[LINK])
    (source / broken).write_text((source / broken).read_text()[:-3])
    assert broken in quota.fails("import-aws", source)
    assert quota.ledger.list_plans() == quota.ledger.list_keys() == []


def test_what_is_there_already_is_not_touched(quota, tmp_path):
    """A plan of the same id that differs, a key's id, a key's value: nothing is imported. What is equal is fine."""
    source = write(tmp_path / "in", n371pt=[LINK])
    assert quota("import-aws", source) == 0
    assert quota("import-aws", source) == 0
    assert "2 of these were there already" in quota.out
    quota("key", "remove", ACME["id"], "--yes")
    assert quota("import-aws", source) == 0
    other = write(tmp_path / "other", [GOLD, {"id": "new", "name": "new"}], [{**ACME, "id": "elsewhere"}])
    assert "its value" in quota.fails("import-aws", other)
    changed = write(tmp_path / "changed", [{"id": "new", "name": "new"}, {**GOLD, "name": "silver"}], [])
    assert "n371pt" in quota.fails("import-aws", changed)
    twice = write(tmp_path / "twice", [{"id": "new", "name": "new"}], [{**ACME, "id": "x", "value": "x" * 20}] * 2)
    quota.fails("import-aws", twice)
    assert [plan.id for plan in quota.ledger.list_plans()] == ["n371pt"]
    assert len(quota.ledger.list_keys()) == 1


@pytest.mark.parametrize("calls", range(5))
def test_a_store_that_fails_midway_is_as_it_was(quota, tmp_path, monkeypatch, calls):
    """Plans and keys made before are taken back."""
    source = write(tmp_path / "in", [GOLD, {"id": "p", "name": "p"}], [ACME, ODD_KEYS[0]], n371pt=[LINK], p=[LINK])
    left = [calls]

    def failing(method):
        def call(self, *arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise StoreUnavailable("gone")
            return method(self, *arguments, **named)

        return call

    for name in ("put_plan", "add_keys"):
        monkeypatch.setattr(type(quota.store), name, failing(getattr(type(quota.store), name)))
    status = quota("import-aws", source)
    assert status == (0 if calls == 4 else 3)
    assert len(quota.ledger.list_plans()) == len(quota.ledger.list_keys()) == (2 if calls == 4 else 0)


@pytest.mark.parametrize("arguments", [
    ("import-aws", "{in}", "--plans", "x"), ("import-aws", "{in}/api-keys.json"), ("import-aws", "--plan-keys", "x"),
    ("export-aws", "{in}/api-keys.json"),
    ("export-aws", "{out}", "--secrets", "{bad}"), ("import-aws", "--plans", "{bad}"),
])  # fmt: skip
def test_wrong_use_is_told(quota, tmp_path, arguments):
    """In one line."""
    quota("plan", "add", "p", "1/day")
    bad = tmp_path / "bad"
    bad.write_text('{"plans": {"p": {"apiStages": [7]}}}')
    names = {"in": write(tmp_path / "in"), "out": tmp_path / "out", "bad": bad}
    line = quota.fails(*(argument.format(**names) for argument in arguments))
    assert VALUE not in line


def test_a_plan_whose_id_is_a_path_is_not_exported(quota, tmp_path):
    """Its file would be elsewhere."""
    quota("plan", "add", "../evil", "1/day")
    quota.fails("export-aws", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


CSV = f"""Name, KEY ,Description,Enabled,UsagePlanIds
 Ada , {A} ,engines,TRUE,gold
Bob,{B},,false,"gold, pets"
"""


@pytest.fixture
def shop(quota):
    quota("plan", "add", "gold", "10/day")
    quota("plan", "add", "pets", "5/day", "--api", "pets")
    return quota


def test_keys_are_imported_from_csv(shop, tmp_path):
    """With description, state and plans; from a file or standard input; importing again replaces."""
    (tmp_path / "keys.csv").write_text(CSV)
    done = shop.json("key", "import", "--csv", tmp_path / "keys.csv")
    assert (len(done["imported"]), done["replaced"], done["warnings"]) == (2, [], [])
    assert shop("consume", "-", data=A) == 0
    assert shop.json("consume", "-", data=B, status=1)["reason"] == "DISABLED_KEY"
    assert shop.json("key", "show", "Bob")["plans"] == ["gold", "pets"]
    assert shop.json("key", "show", "Ada")["metadata"] == {"description": "engines"}
    changed = CSV.replace(" Ada ", "Ada L").replace("gold, pets", "pets").replace("engines", "")
    again = shop.json("key", "import", "--csv", "-", data=changed)
    assert again == {"imported": [], "replaced": done["imported"], "warnings": []}
    assert shop.json("key", "show", "Ada L")["metadata"] == {"description": "engines"}
    assert shop("key", "import", "--csv", "-", data=CSV) == 0
    assert shop.out == "imported 0 keys, replaced 2\n"
    assert A not in shop.out + shop.err
    assert shop("export-aws", tmp_path / "out", "--secrets", tmp_path / "keys.csv") == 0
    assert {key["value"] for key in read(tmp_path / "out")["api-keys.json"]} == {A, B}


ODD = f'Name,Key,Enabled,UsagePlanIds\nAda,{A},yes,nowhere\nBob,short,,\nEve,{B},,"gold,other"\n'


def test_warnings_are_told_and_with_strict_nothing_is_imported(shop):
    """An unknown plan, a short key, an odd state, two plans for one api."""
    shop("plan", "add", "other", "1/day")
    line = shop("key", "import", "--csv", "-", "--strict", data=ODD)
    assert line == 2
    assert "nothing is imported: --strict, and 4 warnings" in shop.err
    assert shop.ledger.list_keys() == []
    done = shop.json("key", "import", "--csv", "-", data=ODD, status=4)
    assert (len(done["imported"]), len(done["warnings"])) == (2, 4)
    assert shop.json("key", "show", "Eve")["plans"] == ["gold"]
    assert shop.json("key", "show", "Ada")["enabled"] is False


@pytest.mark.parametrize("cut", [60, 90, len(CSV) - 3, len(CSV) - 20])
@pytest.mark.parametrize("strict", [(), ("--strict",)])
def test_a_half_written_csv_changes_nothing(shop, cut, strict):
    """One line that names the line, strict or not."""
    assert "standard input line" in shop.fails("key", "import", "--csv", "-", *strict, data=CSV[:cut])
    assert shop.ledger.list_keys() == []


@pytest.mark.parametrize("calls", range(5))
def test_an_import_that_fails_midway_is_taken_back(shop, monkeypatch, calls):
    """New keys go, replaced ones are as they were, plans too."""
    shop("key", "import", "Old", "--id", "old", "--meta", "a=b", data=B)
    before = (shop.ledger.list_keys(), shop.ledger.list_plans("old"))
    left = [calls]

    def failing(method):
        def call(self, *arguments, **named):
            left[0] -= 1
            if left[0] == -1:
                raise StoreUnavailable("gone")
            return method(self, *arguments, **named)

        return call

    for name in ("associate", "add_keys"):
        monkeypatch.setattr(type(shop.store), name, failing(getattr(type(shop.store), name)))
    status = shop("key", "import", "--csv", "-", data=CSV)
    assert status == (3 if calls < 3 else 0)
    if calls < 3:
        assert (shop.ledger.list_keys(), shop.ledger.list_plans("old")) == before
