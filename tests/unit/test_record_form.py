"""The form of a record: canonical JSON, pages that hold it, hashes, the Merkle root, salts, shared values."""

import hashlib
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechforget.errors import UserError
from speechforget.record import merkle
from speechforget.record.canonical import canonical_bytes, embed, island, islands, read_record, without_record
from speechforget.record.hidden import hidden_named, hidden_overrides, hidden_path, hidden_request, hidden_settings
from speechforget.record.salt import FILE, Salt, own_salt, read_salt
from speechforget.record.shared import Shared, expand

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
SALT = Salt(bytes(32))
EMPTY = {"schema": {"name": "speechforget-record", "version": 1}, "made": "", "speechforget": {}, "results": []}
EMPTY |= {"evidence": {}, "attachments": {}, "shared": {}}


def test_canonical_json_in_closed_form() -> None:
    assert canonical_bytes({"b": [1, 1.0, 1e-7, None], "a": "ü\n"}) == '{"a":"ü\\n","b":[1,1.0,1e-07,null]}'.encode()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            canonical_bytes(bad)


@given(JSON)
def test_a_page_gives_back_the_bytes_that_it_holds(value: object) -> None:
    content = canonical_bytes(value)
    assert canonical_bytes(json.loads(content)) == content
    page = f"<p>{island('record', content)}</p>{island('charts', canonical_bytes('</script>'))}".encode()
    assert islands(page) == {"record": content, "charts": canonical_bytes("</script>")}


def test_no_text_ends_the_element_of_a_page() -> None:
    inside = island("record", canonical_bytes({"text": "</script><!-- <script>"}))
    assert inside.count("</script>") == 1 and "<!--" not in inside


def test_a_record_vouches_for_the_page_around_it() -> None:
    record = {**EMPTY, "attachments": {}}
    page = embed(f"<h1>Forgotten</h1>{island('record', b'')}", record).encode()
    around = without_record(page)
    assert record["attachments"]["page"] == hashlib.sha256(around).hexdigest()
    assert around == f"<h1>Forgotten</h1>{island('record', b'')}".encode()
    with pytest.raises(ValueError, match="one element"):
        embed("<h1>none</h1>", record)


def test_a_record_is_read_from_pages_and_files(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(canonical_bytes(EMPTY))
    (tmp_path / "report.html").write_text(f"<html>{island('record', canonical_bytes(EMPTY))}</html>")
    assert read_record(tmp_path / "record.json") == read_record(tmp_path / "report.html") == EMPTY


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.html", "<p>nothing</p>", "holds no record"),
        ("a.json", "{", "holds no record"),
        ("a.json", "[]", "holds no record"),
        ("a.json", json.dumps({**EMPTY, "schema": {"name": "speechforget-record", "version": 9}}), "version 9"),
        ("a.json", json.dumps({name: EMPTY[name] for name in ("schema", "made")}), "without its part 'speechforget'"),
        ("missing.json", None, "cannot be read"),
    ],
)
def test_anything_else_is_one_sentence(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        read_record(tmp_path / name)


def test_merkle_root_in_closed_form() -> None:
    files = {f"{name}/x": hashlib.sha256(name.encode()).hexdigest() for name in "abcde"}

    def sha(*parts: bytes) -> bytes:
        return hashlib.sha256(b"".join(parts)).digest()

    a, b, c, d, e = (sha(b"\0", path.encode(), b"\0", bytes.fromhex(digest)) for path, digest in files.items())
    assert merkle.root({}) == hashlib.sha256(b"").hexdigest()
    assert merkle.root({"a/x": files["a/x"]}) == a.hex()
    four = sha(b"\1", sha(b"\1", a, b), sha(b"\1", c, d))
    assert merkle.root(files) == sha(b"\1", four, e).hex()  # RFC 6962: the left part is the largest power of two
    assert merkle.root(dict(reversed(files.items()))) == merkle.root(files)
    assert merkle.root({**files, "a/x": files["b/x"], "b/x": files["a/x"]}) != merkle.root(files)


def test_a_salt_is_made_once_and_is_secret(tmp_path: Path) -> None:
    salt = own_salt(tmp_path)
    assert own_salt(tmp_path) == salt == read_salt(tmp_path / FILE) and len(salt.secret) == 32
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert salt.secret.hex() not in salt.name and salt.name != SALT.name
    (tmp_path / "other").write_text("not a salt")
    for name in ("other", "missing"):
        with pytest.raises(UserError, match="salt"):
            read_salt(tmp_path / name)


def test_hashes_hide_ids_and_their_order() -> None:
    assert SALT.all(["b", "a"]) == SALT.all(["a", "b"]) == sorted([SALT.hashed("a"), SALT.hashed("b")])
    assert SALT.hashed("a") != Salt(bytes([1]) * 32).hashed("a")


@given(PLAIN | st.lists(PLAIN))
def test_shared_values_come_back(value: object) -> None:
    shared = Shared()
    reference = shared.put("numbers", value)
    assert shared.put("numbers", value) == reference and len(shared.values["numbers"]) == 1
    nested = shared.put("outer", {"inside": [reference]})
    assert expand([nested, 5], shared.values) == [{"inside": [value]}, 5]


def test_names_of_people_are_hidden() -> None:
    digits = "-0123456789ab"
    assert hidden_path(f"result/scrub-tiny-sample-speaker-anna-seed0{digits}/forget.txt") == (
        f"result/scrub-tiny-sample-speaker-hidden{digits}/forget.txt"
    )
    for open_name in (f"oracle/tiny-sample-random-5percent-seed0{digits}", f"result/scrub-class-anna-seed0{digits}"):
        assert hidden_path(open_name) == open_name
    assert hidden_path(f"scores/x-folder-speaker-tiny-class-anna{digits}") == (
        f"scores/x-folder-speaker-tiny-class-hidden{digits}"
    )
    assert hidden_request("sample-speaker-anna", "word", SALT) == f"sample-speaker-{SALT.hashed('anna')}"
    assert hidden_request("sample-random-5percent", "word", SALT) == "sample-random-5percent"
    assert hidden_request("class-stop", "word", SALT) == "class-stop"
    assert hidden_request("class-anna", "speaker", SALT) == f"class-{SALT.hashed('anna')}"
    settings = hidden_settings(
        {"task": {"values": ["anna"], "by": "speaker", "ids": None}, "dataset": {"root": "/home"}}
    )
    assert settings == {"task": {"values": "VALUES", "by": "speaker", "ids": None}, "dataset": {"root": "RECORDINGS"}}
    assert hidden_named("accuracy_worst_speakers_test", ["anna: b: 0.5"], "word", SALT) == [
        f"{SALT.hashed('anna: b')}: 0.5"
    ]
    assert hidden_named("accuracy_worst_classes_test", ["stop: 0.5"], "word", SALT) == ["stop: 0.5"]
    assert hidden_named("accuracy_gap_sex_test", ["female: 0.5 of 20"], "word", SALT) == ["female: 0.5 of 20"]
    for column in ("speaker", "client_id"):
        assert hidden_named(f"accuracy_lowest_{column}_test", ["anna: 0.5 of 20"], "word", SALT) == [
            f"{SALT.hashed('anna')}: 0.5 of 20"
        ]
    assert hidden_named("neighbour_share_test", ["anna: 0.5"], "speaker", SALT) == [f"{SALT.hashed('anna')}: 0.5"]
    words = ["seed=1", "task.values=[anna]", "output=/home/anna", "+task.ids=anna.txt"]
    assert hidden_overrides(words) == ["seed=1", "task.values=VALUES", "+task.ids=IDS"]
