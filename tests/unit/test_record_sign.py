"""Signatures: who signed is told, and a changed byte or another key is found."""

import json
import stat
import sys
from pathlib import Path

import pytest

from speechforget.errors import UserError
from speechforget.record.sign import check_signature, make_keys, sign

pytest.importorskip("cryptography", reason="signatures need the extra `sign`")


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text("<html>record</html>")
    make_keys(tmp_path / "key.pem")
    sign(path, tmp_path / "key.pem")
    return path


def test_a_signature_names_its_key_and_trusts_only_the_one_that_is_named(signed: Path, tmp_path: Path) -> None:
    told, trusted = check_signature(signed, None), check_signature(signed, tmp_path / "key.pub.pem")
    assert told and trusted and not told.trusted and trusted.trusted and told.fingerprint == trusted.fingerprint
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_a_changed_byte_and_another_key_are_found(signed: Path, tmp_path: Path) -> None:
    text = signed.read_text()
    signed.write_text(text.replace("record", "Record"))
    with pytest.raises(UserError, match="changed since it was signed"):
        check_signature(signed, None)
    make_keys(tmp_path / "thief.pem")
    sign(signed, tmp_path / "thief.pem")
    assert check_signature(signed, None) is not None  # a good signature, of somebody
    with pytest.raises(UserError, match="signed by another key"):
        check_signature(signed, tmp_path / "key.pub.pem")


def test_without_a_signature_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("{}")
    assert check_signature(tmp_path / "record.json", None) is None


@pytest.mark.parametrize("content", ["", "{}", json.dumps({"public_key": "x", "signature": "?"})])
def test_a_broken_signature_is_one_sentence(signed: Path, content: str) -> None:
    signed.with_suffix(".sig").write_text(content)
    with pytest.raises(UserError, match=r"no signature of speechforget|no public key"):
        check_signature(signed, None)


def test_keys_that_cannot_sign_are_one_sentence(signed: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    secret = serialization.BestAvailableEncryption(b"word")
    forms = {
        "passphrase": (Ed25519PrivateKey.generate(), secret),
        "another kind": (ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()),
    }
    for words, (key, encryption) in forms.items():
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        (tmp_path / "bad.pem").write_bytes(pem)
        with pytest.raises(UserError, match=words):
            sign(signed, tmp_path / "bad.pem")
    for name in ("key.pub.pem", "missing.pem"):
        with pytest.raises(UserError, match=r"no private key|cannot be read"):
            sign(signed, tmp_path / name)
    with pytest.raises(UserError, match="exists"):
        make_keys(tmp_path / "key.pem")


def test_the_missing_package_is_named(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(UserError, match=r"speechforget\[sign\]"):
        check_signature(signed, None)
