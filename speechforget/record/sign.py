"""Sign a record with a key of the user's, and check such a signature: Ed25519, in a file beside the record."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from speechforget.errors import UserError
from speechforget.record.write import DENIED, SIGNATURE
from speechforget.store.files import explained, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "Ed25519"
INSTALL = "Signatures need the package cryptography: pip install 'speechforget[sign]'."
MAKE = "`speechforget record key` makes one"


class Signature(NamedTuple):
    """Hold what a good signature shows: SHA-256 of the public key, and whether the user named that key."""

    fingerprint: str
    trusted: bool


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise UserError(INSTALL) from None
    return serialization


def make_keys(path: Path) -> tuple[Path, str]:
    """Make a private key, readable by its owner only, and its public key beside it.

    Returns the path of the public key and its fingerprint. Raises UserError if one of the files exists.
    """
    serialization = _library()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, public = Ed25519PrivateKey.generate(), path.with_suffix(".pub.pem")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    contents = ((path, private, 0o600), (public, _pem(key.public_key()), 0o644))
    if existing := [str(each) for each, *_ in contents if each.exists()]:
        raise UserError(f"{existing[0]} exists: give another name, so that no key is overwritten.")
    for each, content, mode in contents:
        with (
            explained(each, DENIED),
            os.fdopen(os.open(each, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file,
        ):
            file.write(content)
    return public, fingerprint(key.public_key())


def sign(path: Path, key: Path) -> Path:
    """Sign the bytes of a record, a page or JSON, with a private key; return the path of the signature beside it.

    Raises UserError for a key that cannot be used.
    """
    private = _read(key, private=True)
    content = path.read_bytes()
    signature = path.with_suffix(SIGNATURE)
    with explained(signature, DENIED):
        write_json(
            signature,
            {
                "algorithm": ALGORITHM,
                "file": path.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "public_key": _pem(private.public_key()).decode(),
                "signature": base64.b64encode(private.sign(content)).decode(),
            },
        )
    return signature


def check_signature(path: Path, signer: Path | None) -> Signature | None:
    """Check the signature beside a record; None if there is none. signer: the public key to trust.

    Raises UserError if the signature is wrong, or of another key than the signer's.
    """
    trusted = None if signer is None else _read(signer, private=False)
    beside = path.with_suffix(SIGNATURE)
    if not beside.exists():
        return None
    try:
        told = json.loads(beside.read_text(encoding="utf-8"))
        pem, signature = told["public_key"].encode(), base64.b64decode(told["signature"], validate=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise UserError(f"{beside} is no signature of speechforget: sign the record again.") from None
    public = _public(pem, str(beside))
    _verify(public, signature, path, beside)
    if trusted is not None and fingerprint(trusted) != fingerprint(public):
        raise UserError(
            f"{beside} is signed by another key (SHA-256 {fingerprint(public)}) "
            f"than that of {signer} (SHA-256 {fingerprint(trusted)}): give the public key of the one who signed."
        )
    return Signature(fingerprint(public), trusted is not None)


def _verify(public: Ed25519PublicKey, signature: bytes, path: Path, beside: Path) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, path.read_bytes())
    except InvalidSignature:
        raise UserError(
            f"{beside} does not fit {path}: one of them changed since it was signed; get both again."
        ) from None


def fingerprint(public: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the 32 bytes of a public key, 64 hexadecimal digits."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def _pem(public: Ed25519PublicKey) -> bytes:
    serialization = _library()
    found: bytes = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def _read(path: Path, private: bool) -> Any:
    """Read a key from a PEM file. Raises UserError."""
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise UserError(f"The key {path} cannot be read ({error.strerror}): {MAKE}.") from None
    return _private(pem, path) if private else _public(pem, str(path))


def _private(pem: bytes, path: Path) -> Ed25519PrivateKey:
    serialization = _library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise UserError(f"The key {path} has a passphrase: give a key without one, as {MAKE}.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{path} is no private key in PEM form: {MAKE}.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is a key of another kind, and signatures are {ALGORITHM}: {MAKE}.")
    return key


def _public(pem: bytes, where: str) -> Ed25519PublicKey:
    serialization = _library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{where} holds no public key in PEM form: {MAKE}, with its public key beside.") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{where} holds a key of another kind, and signatures are {ALGORITHM}: {MAKE}.")
    return key
