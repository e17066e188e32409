"""The vocabulary, held: no old word comes back, a name has one meaning, docstrings begin with a command or a noun.

The words are those of the field; a term has one meaning and no synonyms. Each rule is seen to find planted breaches.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict

import pytest

import paths

SRC = paths.ROOT / "src" / "quota"
DOCUMENTS = [paths.ROOT / "README.md", paths.ROOT / "CONTRIBUTING.md", *sorted((paths.ROOT / "docs").rglob("*.md"))]
SOURCES = [path for path in sorted(SRC.rglob("*")) if path.suffix in {".py", ".sql", ".lua"}]

COINED = {
    "party": "subject", "parties": "subjects", "course": "route plan", "courses": "route plans", "verdict": "outcome",
    "verdicts": "outcomes", "memo": "remembered request", "memos": "remembered requests", "purse": "lease",
    "purses": "leases", "seat": "entry", "seats": "entries", "standing": "state", "standings": "states",
}  # fmt: skip
"""Words of the house before the field's words took their place: old -> new."""
CLASSES = {
    "QuotaLine", "ThrottleLine", "Slot", "Terms", "Trip", "Visit", "InLine", "Holding", "Holdings", "Bid",
    "Leased", "Presented", "On", "Track", "Bounds", "Frame", "Quick",
}  # fmt: skip
"""Names of classes that are gone with them."""
INNOCENT = re.compile(r"\b(of|in due|in the) course\b|\bthird[- ]part(y|ies)\b", re.IGNORECASE)
OTHERS = {"replay.run": {"seat", "seats"}}
"""Files with another meaning of a word: a client's seat in a replay."""

ONE_OF_EACH = {
    "Accounts": "each store and the ledger's steps have one",
    "Decisions": "each server or file decides", "Directory": "each store has one", "QuotaMiddleware": "each protocol has one",
    "_Connected": "each server's store has one", "Exchange": "each protocol has one", "Call": "each wire has its own",
    "Refused": "each face raises its own", "PlansOption": "each command has its own", "Receive": "as ASGI names it",
    "Reports": "each kind of store has one, and the ledgers", "Message": "as ASGI names it", "Lent": "each pool lends its own",
    "Quota": "a limit, and the extension as Flask users call one",
}  # fmt: skip
"""Names that several files define for the same thing, each for its own engine or protocol."""
NOT_YET = {
    "Answer", "Asked", "Change", "Item", "Kept", "Limit", "Operation", "Place", "Places", "Queues", "Reading", "Reply",
    "Request", "Row", "Shapes", "Skewed", "Step", "Subject", "Told", "Turn", "Window",
}  # fmt: skip
"""Names with a second meaning in another folder; the list only grows shorter."""


def identifiers(text):
    """The names of a source, Python's or another's, without what is in quotes of Python."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError, IndentationError):
        return re.findall(r"[A-Za-z_]\w*", text)
    return [token.string for token in tokens if token.type == tokenize.NAME]


def coined(text, allowed=()):
    """The old words in a source's names, comments and docstrings, or in a document."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", INNOCENT.sub("", text)).lower())
    return sorted({word for word in words if word in COINED} - set(allowed))


def gone(text):
    """The names of classes that were renamed."""
    return sorted(CLASSES.intersection(identifiers(text)))


def defined(tree):
    """The classes and the types of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name) and re.match(r"[A-Z][a-z]\w+$", target.id):
                yield target.id


def meanings(sources):
    """The names that more than one of these sources defines: name -> files."""
    found = defaultdict(list)
    for name, text in sources.items():
        for defines in sorted(set(defined(ast.parse(text)))):
            found[defines].append(name)
    return {name: files for name, files in found.items() if len(files) > 1}


def clauses(text):
    """The docstrings, of names too, that begin with a clause in place of a command or a noun."""
    for node in ast.walk(ast.parse(text)):
        body = node.body if isinstance(getattr(node, "body", None), list) else []
        for before, expression in zip([None, *body], body, strict=False):
            said = isinstance(expression, ast.Expr) and isinstance(expression.value, ast.Constant)
            about = before is None or isinstance(before, (ast.Assign, ast.AnnAssign))
            if said and about and re.match(r"(What|Whether|Who|How|When|Which|Why)\b", str(expression.value.value)):
                yield expression.value.value.partition("\n")[0]


def dotted(path):
    return ".".join(path.relative_to(SRC).with_suffix("").parts)


MOST_WORDS = 100
"""Of one paragraph or one item of a list in a document; beyond it there is a second idea, and room for a second paragraph."""


def dense(text):
    """How the paragraphs and items begin that are longer; code, tables and headings apart."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    paragraphs = re.split(r"\n\s*\n|^(?=\s*(?:[-|#]|\d+\.) ?)", prose, flags=re.MULTILINE)
    return [words[:40] for words in paragraphs if words[:1] not in "|#" and len(words.split()) > MOST_WORDS]


def test_no_paragraph_is_dense():
    """Of no document that users read."""
    found = {path.name: dense(path.read_text("utf-8")) for path in DOCUMENTS}
    assert {name: begins for name, begins in found.items() if begins} == {}


@pytest.mark.parametrize("begins", ["", "- ", "1. ", "**So.** ", "> "])
def test_a_planted_dense_paragraph_is_found(begins):
    """Wherever it stands; the same words in a table or in code are none, and in two paragraphs neither."""
    words = ["word"] * MOST_WORDS
    long = " ".join([*words, "more"])
    assert len(dense(f"# Title\n\nshort\n\n{begins}{long}\n\n- short")) == 1
    assert dense(f"short\n\n| a | {long} |\n|---|---|\n\n```text\n{long}\n```\n") == []
    assert dense(f"{begins}{' '.join(words[:60])}\n\n{' '.join(words[:60])}\n- {' '.join(words[:60])}\n") == []


def test_no_old_word():
    """Neither in names, nor in comments, docstrings, SQL and Lua, nor in documents."""
    found = {path.name: coined(path.read_text("utf-8"), OTHERS.get(dotted(path), ())) for path in SOURCES}
    found |= {path.name: coined(path.read_text("utf-8")) for path in DOCUMENTS}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("word", COINED)
def test_a_planted_word_is_found(word):
    """As a name, a part of one, in a comment and in a sentence."""
    for text in (
        f"{word} = 1",
        f"def {word}_of(x): ...",
        f"_{word.upper()} = 1",
        f"# The {word}'s.",
        f"It is a {word}.",
    ):
        assert coined(text) == [word], text


@pytest.mark.parametrize(
    "text", ["Of course.", "of course", "a third-party parser", "in the course of a day", "recourse = seating"]
)
def test_an_innocent_word_is_left_alone(text):
    """English in which a word is another one."""
    assert coined(text) == []


def test_no_old_class():
    """Nor one of the names that were renamed with what they meant."""
    found = {dotted(path): gone(path.read_text("utf-8")) for path in SOURCES if path.suffix == ".py"}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_planted_class_is_found(name):
    """Defined or used; not where it is a sentence's."""
    assert gone(f"class {name}:\n    pass") == gone(f"x: {name} = f()") == [name]
    assert gone(f'"""{name} the other side."""') == []


def test_one_meaning_a_name():
    """A class or a type is defined in one file, but for the engines' own of one role; no new name gets a second one."""
    found = meanings({dotted(path): path.read_text("utf-8") for path in SOURCES if path.suffix == ".py"})
    assert found.keys() - ONE_OF_EACH.keys() <= NOT_YET
    assert not NOT_YET - found.keys(), "these have one meaning now: take them out"


def test_a_planted_second_meaning_is_found():
    """Of a class and of a type; functions and constants of a file are its own business."""
    planted = {
        "a": "class Lane:\n    pass\nMOST = 1",
        "b": "Lane = int | str\nMOST = 2\ndef f(): ...",
        "c": "Other = int",
    }
    assert meanings(planted) == {"Lane": ["a", "b"]}


def test_docstrings_begin_with_a_command_or_a_noun():
    """None begins with a clause."""
    found = {dotted(path): list(clauses(path.read_text("utf-8"))) for path in SOURCES if path.suffix == ".py"}
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize(
    "begins", ["What the store says.", "Whether it is open.", "Who waits.", "How long.", "When it ends.", "Why."]
)
@pytest.mark.parametrize("place", ['"""{}"""', 'def f():\n    """{}"""', 'class C:\n    """{}"""', 'X = 1\n"""{}"""'])
def test_a_planted_clause_is_found(begins, place):
    """Of a module, a function, a class, a name."""
    assert list(clauses(place.format(begins))) == [begins]
    assert list(clauses(place.format("Return what the store says."))) == []
