"""API Gateway's CSV of keys: read as it reads it, warned about where it is odd, refused where it is not whole."""

import pytest

from gateway import A, B
from quota.aws.keys_csv import CsvKey, as_metadata, parse_csv
from quota.errors import InvalidValue


def test_the_developer_guide_s_example():
    """Columns in any order and case, spaces around cells, any case of true, several plans in quotes."""
    text = f'Name,key,description,Enabled,usageplanIds\nMyFirstApiKey, {A}, An imported key, tRuE, c7y23b\n\nMyOther, {B},,,"n371pt, 56y7u0, n371pt"\n'
    assert parse_csv("f", text) == (
        [CsvKey(2, "MyFirstApiKey", A, "An imported key", True, ("c7y23b",)), CsvKey(4, "MyOther", B, "", True, ("n371pt", "56y7u0"))], [],
    )  # fmt: skip
    assert A not in repr(parse_csv("f", text))


@pytest.mark.parametrize("text", [f"\ufeffKEY , NAME\r\n{A},n\r\n", f"name,more,key\nn,x,{A}\n", f"key,name\n{A},n"])
def test_the_least_that_is_a_table(text):
    """A byte order mark, Windows' line ends, unknown columns, no line end at the end."""
    assert parse_csv("f", text) == ([CsvKey(2, "n", A)], [])


def test_what_may_have_been_cut_within_its_key_is_told():
    """A file that ends in a key, without a line end: half a key may be long enough to be one."""
    keys, warnings = parse_csv("f", f"name,key\nn,{A}\nm,{B[:-3]}")
    assert [key.secret for key in keys] == [A, B[:-3]]
    assert warnings == ["line 3: nothing is behind its Key, not even a line end: is the key whole?"]


def test_spaces_around_quoted_cells_are_trimmed():
    """Before and behind the quotes; inside, quotes, commas and line breaks are the cell's own."""
    text = f'"name" , "key" ,description,"usageplanids"  \r\n "n" , "{A}" , "a ""b"" , c" , "p, q" \r\nm,{B},5" disk , r\r\n'
    keys, warnings = parse_csv("f", text)
    assert [(key.name, key.secret, key.description, key.plans) for key in keys] == [
        ("n", A, 'a "b" , c', ("p", "q")), ("m", B, '5" disk', ("r",)),
    ]  # fmt: skip
    assert warnings == []
    with pytest.raises(InvalidValue, match="complete"):
        parse_csv("f", f'name,key,description\nn,{A},"x" \nm,{B},"half of')


@pytest.mark.parametrize(("row", "warning"), [
    ("n,short,,true", "line 2 is left out: its Key: 5 characters"), (f",{A},,true", "its Name"), (f"{'n' * 257},{A},,", "its Name"),
    (f"n,{A},{'d' * 125_001},", "its Description"), (f'n,{A},"{"d" * 125_000}' + chr(10) + 'x",', "its Description"), ("n,,,", "its Key"), (f"n,{A[:-1]}é,,", "its Key"),
])  # fmt: skip
def test_a_row_that_cannot_be_a_key_is_left_out_and_told(row, warning):
    """The rest is read; no secret is in a warning."""
    keys, warnings = parse_csv("f", f"name,key,description,enabled\n{row}\nok,{B},,\n")
    assert [key.name for key in keys] == ["ok"]
    assert warning in warnings[0]
    assert A[:10] not in str(warnings)


def test_what_is_neither_true_nor_false_is_false():
    """As API Gateway reads it, and told."""
    keys, warnings = parse_csv("f", f"name,key,enabled\nn,{A},yes\nm,{B},FALSE\n")
    assert [key.enabled for key in keys] == [False, False]
    assert len(warnings) == 1


def test_of_two_rows_with_one_key_the_later_counts():
    """And is told."""
    keys, warnings = parse_csv("f", f"name,key\nfirst,{A}\nsecond,{A}\n")
    assert [key.name for key in keys] == ["second"]
    assert warnings == ["line 3: the same key as in line 2, which it replaces"]


@pytest.mark.parametrize(("text", "said"), [
    ("", "line 0|line 1"), ("name\nn\n", "line 1"), ("name,key,KEY\nn,a,b\n", "line 1"), (f"name,key,enabled\nn,{A},true\nm,{B[:25]}", "line 3"),
    (f"name,key\nn,{A}\nm,{B[:10]}", "line 3"), (f'name,key\nn,{A}\n"m,{B}', "line 3"), (f"name,key\nn,{A},x\n", "line 2"), (f'name,key\nn,"{A}"x\n', "line 2"),
])  # fmt: skip
def test_a_file_that_is_not_whole_is_refused(text, said):
    """Cut short in a row or in a quoted cell, or no such table: the line is named and no secret shown."""
    with pytest.raises(InvalidValue, match=said) as refused:
        parse_csv("keys.csv", text)
    assert str(refused.value).startswith("keys.csv line")
    assert A not in str(refused.value)


@pytest.mark.parametrize(("text", "said"), [
    (f"Partner,{A}\nOther,{B}\n", "no column Name, no column Key"), (f"{A}\n{B}\n", "no column Name, no column Key"),
    (f"Partner;{A}\n", "no column Name, no column Key"), (f"name,{A}\n", "no column Key"), (f"key,{A},Key\n", "no column Name, 2 columns Key"),
    (f'{{"items": [{{"id": "x", "value": "{A}"}}]}}', "JSON"), (f'[\n"{A}"]', "JSON"), (f"sep=;\nPartner;{A}\n", "no column"),
    (f"\x00\x01{A}\x00,\x00{B}\n", "no column|CSV"), (f'"{A}\n{B}', "complete"), (f'"{A}"{B},x\n', "complete"), (f"\n\n{A}", "line 3"),
    (f"Name,Key\n{A}\n", "1 cells"), (f"Name,Key\nn,{A},{B}\n", "3 cells"), (f'Name,Key\nn,"{A}\n', "complete"),
])  # fmt: skip
def test_no_message_shows_what_stands_in_a_file_that_is_no_such_table(text, said):
    """Without a header, plain secrets, JSON, binary: the columns that are missing are named, never a cell."""
    with pytest.raises(InvalidValue, match=said) as refused:
        parse_csv("keys.csv", text)
    for shown in (str(refused.value), repr(refused.value), repr(refused.value.args)):
        for secret in (A, B, "Partner"):
            assert secret.lower()[:12] not in shown.lower()


def test_a_quote_within_a_cell_is_the_cell_s_own():
    """Inches in two rows are no pair of quotes, whatever stands between them."""
    text = f'Name,Key,Description\nTV 5" a,{A}, 7" \nTV 5" b,{B},8" c\n'
    assert [(key.name, key.description) for key in parse_csv("f", text)[0]] == [('TV 5" a', '7"'), ('TV 5" b', '8" c')]


ROWS = [CsvKey(2, "n", A, "x, y", True, ("p", "q")), CsvKey(3, "m", B)]


@pytest.mark.parametrize(("text", "before"), [
    (f"Name;Key;Description;UsagePlanIds\nn;{A};x, y;p, q\nm;{B};;\n", 0), (f"Name\tKey\tDescription\tUsagePlanIds\nn\t{A}\tx, y\tp, q\nm\t{B}\t\t\n", 0),
    (f'sep=,\nName,Key,Description,UsagePlanIds\nn,{A},"x, y","p, q"\nm,{B},,\n', 1), (f'\ufeffSEP=;\r\nName;Key;Description;UsagePlanIds\r\nn;{A};"x, y" ;p,q\r\nm;{B};;\r\n', 1),
    (f"sep=|\nName|Key|Description|UsagePlanIds\nn|{A}|x, y|p,q\nm|{B}||\n", 1), (f'\n  \nName,Key,Description,UsagePlanIds\nn,{A},"x, y","p,q"\nm,{B},,\n', 2),
    (f'\r\nsep=;\r\n"Name";"Key";"Description";"UsagePlanIds"\r\n"n";"{A}";"x, y";"p,q"\r\n"m";"{B}";"";""\r\n', 2),
])  # fmt: skip
def test_what_spreadsheets_write_is_read(text, before):
    """Semicolons, tabs, a line that says the separator, blank lines in front; lines are counted as in the file."""
    keys, warnings = parse_csv("f", text)
    assert keys == [
        CsvKey(
            key.line + before, *(getattr(key, field) for field in ("name", "secret", "description", "enabled", "plans"))
        )
        for key in ROWS
    ]
    assert warnings == []


def test_lines_without_anything_are_skipped():
    """Blanks, or the empty rows of a spreadsheet, wherever they are."""
    keys, warnings = parse_csv("f", f"name,key,enabled\n  \n,,\nn,{A},\n\n , ,\nm,{B},true\n   \n")
    assert ([key.name for key in keys], warnings) == (["n", "m"], [])


@pytest.mark.parametrize(
    ("description", "kept"),
    [("", {}), ("text", {"description": "text"}), ("two\nlines", {"aws-json.description": '"two\\nlines"'})],
)
def test_a_description_with_a_line_break_is_kept(description, kept):
    """As JSON, as an import of API Gateway's JSON keeps it: it costs no key."""
    keys, warnings = parse_csv("f", f'name,key,description\nn,{A},"{description}"\n')
    assert ([key.description for key in keys], warnings) == ([description], [])
    assert as_metadata(keys[0].description) == kept
