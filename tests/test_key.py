"""API keys, their secrets, and what is kept of them."""

from __future__ import annotations

import json
import pickle
import string
import traceback
from datetime import datetime, timedelta, timezone
from hashlib import sha256

import attrs
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from quota import Ledger, Reason, UsagePlan
from quota.errors import InvalidSecret, InvalidValue
from quota.key import (
    ApiKey,
    IssuedKey,
    Secret,
    decode_key,
    digest,
    encode_key,
    has_typo,
    import_secret,
    mint,
    mistyped,
    new_id,
    new_number,
    new_token,
)

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
FOREIGN = "abcdef1234ghijklmnop8901234567"

prefixes = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,15}", fullmatch=True)
minted = prefixes.map(mint)
visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=20, max_size=128)
instants = st.datetimes(timezones=st.sampled_from([timezone.utc, timezone(timedelta(hours=-9, minutes=-30))]))
printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
stored_secrets = st.builds(
    lambda text, end: attrs.evolve(Secret.of(text), expires_at=end), minted, st.none() | instants
)
keys = st.builds(
    ApiKey,
    id=printable,
    name=printable,
    account=printable,
    enabled=st.booleans(),
    created_at=instants,
    expires_at=st.none() | instants,
    metadata=st.dictionaries(printable, printable, max_size=5),
    secrets=st.lists(stored_secrets, max_size=3).map(tuple),
)


# Minting


@given(prefixes)
def test_minted_shape(prefix: str) -> None:
    """A secret is its prefix, an underscore, 28 random characters and 6 of checksum, and can be imported elsewhere."""
    secret = mint(prefix)
    head, _, body = secret.rpartition("_")
    assert (head, len(body)) == (prefix, 34)
    assert set(body) <= set(BASE62)
    assert not mistyped(secret)
    assert import_secret(secret) == secret


def test_minted_prefix_default() -> None:
    """The default prefix is qk."""
    assert mint().startswith("qk_")


def test_minted_secrets_are_random() -> None:
    """No two secrets or ids agree, and every base62 character turns up in the random part."""
    secrets = [mint() for _ in range(500)]
    assert len(set(secrets)) == 500
    assert set("".join(secret[3:31] for secret in secrets)) == set(BASE62)
    assert len({new_token() for _ in range(500)}) == 500
    assert len({new_number() for _ in range(500)}) == 500


@pytest.mark.parametrize("prefix", ["", "a" * 17, "_a", "-a", "a b", "é", "a\n", "a.b", "\ud800", None, 1, b"qk"])
def test_mint_prefix_invalid(prefix: object) -> None:
    """A prefix of another shape is refused with its value and what would be accepted."""
    with pytest.raises(InvalidValue) as caught:
        mint(prefix)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.value) == ("prefix", prefix)
    assert "1 to 16" in str(caught.value)


def test_ids() -> None:
    """Ids of keys look like API Gateway's; tokens carry 96 bits; numbers are exact in a double."""
    assert len(new_id()) == 10
    assert set(new_id()) <= set(string.digits + string.ascii_lowercase)
    assert len(bytes.fromhex(new_token())) == 12
    assert 0 <= new_number() < 2**52


# The checksum


def test_checksum_is_pinned() -> None:
    """Secrets issued by any version stay valid: the checksum is CRC32 of all before it, in base62."""
    secret = "qk_" + "0" * 28 + "0Z8z5Q"
    assert not mistyped(secret)
    assert mistyped(secret[:-1] + "3")


@given(minted, st.data())
def test_typo_is_found(secret: str, data: st.DataObject) -> None:
    """Every single wrong character that leaves the shape of a minted secret is found by the checksum."""
    place = data.draw(st.integers(0, len(secret) - 1))
    wrong = data.draw(st.sampled_from(BASE62))
    assume(place != len(secret) - 35 and wrong != secret[place])
    assert mistyped(secret[:place] + wrong + secret[place + 1 :])


@given(minted, st.data())
def test_transposition_is_found(secret: str, data: st.DataObject) -> None:
    """Two neighbours swapped, within the body or within the checksum, are found."""
    start = len(secret) - 34
    place = data.draw(st.integers(start, len(secret) - 2).filter(lambda place: place != len(secret) - 7))
    swapped = secret[:place] + secret[place + 1] + secret[place] + secret[place + 2 :]
    assert mistyped(swapped) == (swapped != secret)


@given(minted, st.integers(0, 3), st.text(BASE62, min_size=4, max_size=4))
def test_burst_is_found(secret: str, place: int, burst: str) -> None:
    """Any four wrong characters in a row of what the checksum covers are found: CRC32 finds bursts of 32 bits."""
    start = len(secret) - 34 + place
    damaged = secret[:start] + burst + secret[start + 4 :]
    assert mistyped(damaged) == (damaged != secret)


@given(st.text())
@example("qk_" + "0" * 33)
@example("qk_" + "0" * 35)
@example("_" + "0" * 34)
@example("x" * 17 + "_" + "0" * 34)
@example("qk_" + "0" * 34 + "\n")
@example("qk_" + "٣" * 34)
def test_other_shapes_are_not_mistyped(secret: str) -> None:
    """A secret of another shape is never called mistyped: it may be an imported one."""
    assert not mistyped(secret)


# Digests and hints


@given(st.text(st.characters()))
@example("\ud800")
@example("\x00")
def test_digest_of_anything(secret: str) -> None:
    """Any text has a digest, lone surrogates too, and that of proper text is SHA-256 of its UTF-8."""
    assert len(digest(secret)) == 32
    if not any("\ud800" <= character <= "\udfff" for character in secret):
        assert digest(secret) == sha256(secret.encode()).digest()


@given(visible, st.text())
def test_surrogates_match_no_key(secret: str, noise: str) -> None:
    """What is no UTF-8 text never has the digest of a secret that can be imported."""
    assert digest(noise + "\udc80") != digest(secret)


@given(visible)
def test_hint(secret: str) -> None:
    """What is kept of a secret shows its last four characters and nothing more of it."""
    kept = Secret.of(secret)
    assert kept.digest == digest(secret)
    assert kept.hint == secret[-4:]
    assert secret not in repr(kept)
    assert kept.digest.hex() not in repr(kept)
    assert repr(kept.digest) not in repr(kept)


@given(prefixes)
def test_prefix_is_kept(prefix: str) -> None:
    """The prefix of a minted secret is kept, so that rotation mints with the same; a foreign secret has none."""
    assert Secret.of(mint(prefix)).prefix == prefix
    assert Secret.of(FOREIGN).prefix == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", b"short"),
        ("digest", "0" * 32),
        ("hint", "12345"),
        ("hint", None),
        ("expires_at", datetime(2026, 1, 1)),
    ],
)
def test_secret_invalid(field: str, value: object) -> None:
    """A digest that is none, a hint that tells more than four characters, a naive instant are refused."""
    good = {"digest": bytes(32), "hint": "abcd", "expires_at": None}
    with pytest.raises(InvalidValue) as caught:
        Secret(**{**good, field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


# Import


@given(visible)
def test_import_accepts_visible_ascii(secret: str) -> None:
    """Any 20 to 128 visible ASCII characters can be imported, unless they are a minted secret with a typo."""
    assume(not mistyped(secret))
    assert import_secret(secret) == secret


@pytest.mark.parametrize(
    "secret",
    [
        "", "a" * 19, "a" * 129, "a" * 19 + " ", "a" * 20 + "\n", "a" * 20 + "\x00", "a" * 19 + "é", "a" * 19 + "\ud800",
        b"a" * 20, None, 10**30,
    ],
)  # fmt: skip
def test_import_refuses(secret: object) -> None:
    """Too short, too long, invisible, not ASCII, not text, or minted and mistyped: refused, and never shown."""
    with pytest.raises(InvalidSecret) as caught:
        import_secret(secret)  # type: ignore[arg-type]
    assert caught.value.field == "secret"
    assert not secret or str(secret) not in str(caught.value) + repr(caught.value)


def test_import_refuses_typo() -> None:
    """A minted secret with one wrong character cannot be imported by mistake."""
    secret = mint()
    wrong = secret[:5] + ("a" if secret[5] != "a" else "b") + secret[6:]
    with pytest.raises(InvalidSecret, match="checksum") as caught:
        import_secret(wrong)
    assert wrong not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("prefix", ["hf", "ghp", "sk_live", "qk-2", "Qk", "xqk"])
def test_a_foreign_secret_of_the_minted_shape_is_imported_and_admitted(prefix: str) -> None:
    """Other issuers write a prefix and 34 letters and digits too, without our checksum: ``hf_...``."""
    secret = f"{prefix}_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
    assert mistyped(secret)
    assert not has_typo(secret)
    ledger = Ledger()
    ledger.add_plan(UsagePlan("p", "1/day"))
    ledger.import_key(secret, "theirs", "p")
    assert [ledger.consume(secret).allowed for _ in range(2)] == [True, False]
    assert ledger.consume(secret[:-1] + "8").reason is Reason.UNKNOWN_KEY


@given(st.integers(3, 36), st.sampled_from(BASE62))
def test_a_typo_in_a_secret_of_ours_is_told_when_it_is_imported(place: int, wrong: str) -> None:
    """Whatever character of ``qk_...`` is wrong."""
    secret = mint()
    damaged = secret[:place] + wrong + secret[place + 1 :]
    assert has_typo(damaged) == (damaged != secret)


# Keys


@given(keys)
def test_key_round_trip(key: ApiKey) -> None:
    """A key survives JSON, and pickling, whole."""
    assert decode_key(json.loads(json.dumps(encode_key(key)))) == key
    assert pickle.loads(pickle.dumps(key)) == key


@given(keys)
def test_key_is_a_value(key: ApiKey) -> None:
    """Equal keys are equal and hash alike."""
    twin = decode_key(encode_key(key))
    assert hash(twin) == hash(key)
    assert len({key, twin}) == 1


def test_key_is_frozen() -> None:
    """Neither a field nor the metadata of a key can be changed, not even through the mapping it was made of."""
    metadata = {"tier": "gold"}
    key = ApiKey("k1", "Key123", "k1", metadata=metadata)
    metadata["tier"] = "free"
    assert key.metadata == {"tier": "gold"}
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        key.enabled = False  # type: ignore[misc]
    with pytest.raises(TypeError):
        key.metadata["tier"] = "free"  # type: ignore[index]
    assert not hasattr(key, "__dict__")


@pytest.mark.parametrize("field", ["id", "name", "account"])
@pytest.mark.parametrize("value", ["", "a" * 257, "a\nb", "a\x00", "\ud800", "\x7f", None, 7, b"k1"])
def test_key_text_invalid(field: str, value: object) -> None:
    """Empty, long, unprintable or no text at all is refused by name."""
    good = {"id": "k1", "name": "Key123", "account": "k1"}
    with pytest.raises(InvalidValue) as caught:
        ApiKey(**{**good, field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("enabled", 1), ("enabled", None), ("created_at", datetime(2026, 1, 1)), ("expires_at", datetime(2026, 1, 1)),
        ("expires_at", 1_767_225_600), ("metadata", [("a", "b")]), ("metadata", {"": "b"}), ("metadata", {1: "b"}),
        ("metadata", {"a" * 257: "b"}), ("metadata", {f"m{i}": "" for i in range(65)}), ("secrets", ["qk_secret"]),
        ("secrets", 5), ("secrets", None),
    ],
)  # fmt: skip
def test_key_field_invalid(field: str, value: object) -> None:
    """A boolean that is none, a naive instant, metadata out of bounds, a bare secret: refused by name."""
    with pytest.raises(InvalidValue) as caught:
        ApiKey("k1", "Key123", "k1", **{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("value", [1, None, "a" * (2**20 + 1), "\n", "\ud800"])
def test_metadata_value_invalid(value: object) -> None:
    """A metadata value that is no printable text of at most 1,048,576 characters is refused by its name."""
    with pytest.raises(InvalidValue, match=r"metadata\['tier'\]"):
        ApiKey("k1", "Key123", "k1", metadata={"tier": value})  # type: ignore[dict-item]


def test_bare_secret_is_not_shown() -> None:
    """Passing a secret where its digest belongs is an error that does not show it."""
    secret = mint()
    with pytest.raises(InvalidValue) as caught:
        ApiKey("k1", "Key123", "k1", secrets=(secret,))  # type: ignore[arg-type]
    assert secret not in str(caught.value) + repr(caught.value)


def test_issued_key_unpacks_and_hides() -> None:
    """An issued key unpacks into key and secret, and shows the secret in no text of its own."""
    secret = mint()
    issued = IssuedKey(ApiKey("k1", "Key123", "k1", secrets=(Secret.of(secret),)), secret)
    key, shown = issued
    assert (key, shown) == (issued.key, secret)
    for text in (repr(issued), str(issued), f"{issued}", repr(key), json.dumps(encode_key(key))):
        assert secret not in text
    assert secret[-4:] in repr(key)
