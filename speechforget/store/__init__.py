"""Store artefacts in folders named by the hash of their inputs; each is built once, by the first process that asks.

This package knows nothing about speech. docs/identity.md defines an artefact and its key.
"""

from speechforget.store.artefacts import Store, once, recording
from speechforget.store.code import code_hash, code_modules
from speechforget.store.files import make_folder, write_json, write_text
from speechforget.store.folder import Artefact
from speechforget.store.keys import canonical, differences, key_of
from speechforget.store.locks import check_held, locked
from speechforget.store.manifest import read_done, verified
from speechforget.store.names import words_for
from speechforget.store.provenance import commit, provenance
from speechforget.store.several import BuildMany, Ended, Later, Missing, OneByOne, Producer, Wanted

__all__ = [
    "Artefact",
    "BuildMany",
    "Ended",
    "Later",
    "Missing",
    "OneByOne",
    "Producer",
    "Store",
    "Wanted",
    "canonical",
    "check_held",
    "code_hash",
    "code_modules",
    "commit",
    "differences",
    "key_of",
    "locked",
    "make_folder",
    "once",
    "provenance",
    "read_done",
    "recording",
    "verified",
    "words_for",
    "write_json",
    "write_text",
]
