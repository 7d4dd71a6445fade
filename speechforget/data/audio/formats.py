"""Recognise recordings by their file names, and say why some cannot be read."""

from __future__ import annotations

from pathlib import Path

import soundfile

NAMES = {
    "WAV": ".wav .wave .bwf",
    "RF64": ".rf64",
    "FLAC": ".flac",
    "OGG": ".ogg .oga .opus",
    "MP3": ".mp3 .mp2 .mp1",
    "AIFF": ".aif .aiff .aifc",
    "AU": ".au .snd",
    "CAF": ".caf",
    "W64": ".w64",
    "NIST": ".sph .nist .nis",
    "HTK": ".htk",
    "VOC": ".voc",
    "SVX": ".iff .svx .8svx",
    "PAF": ".paf",
    "PVF": ".pvf",
    "AVR": ".avr",
    "SD2": ".sd2",
    "SDS": ".sds",
    "IRCAM": ".sf .ircam",
    "WVE": ".wve",
    "XI": ".xi",
}
FOREIGN = (
    ".m4a .m4b .mp4 .m4v .mov .aac .adts .wma .asf .amr .awb .3gp .3gpp .3g2 .webm .weba .mka .mkv .avi .ape .wv .tta "
    ".tak .ac3 .eac3 .dts .ra .rm .shn .spx .mpc .qcp .g722 .g729 .gsm .vox .dss .ds2 .dsf .dff .raw .pcm .al .ul"
)
# The first bytes of files that libsndfile reads under any name.
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"ID3", b"NIST")


def readable(formats: set[str]) -> tuple[str, ...]:
    """List the suffixes that libsndfile reads with these formats, without formats that also hold other data (.mat)."""
    return tuple(suffix for name, suffixes in NAMES.items() if name in formats for suffix in suffixes.split())


SUFFIXES = readable(set(soundfile.available_formats()))
# All names of sound, with those that libsndfile cannot read.
SOUNDS = (*SUFFIXES, *sorted({*FOREIGN.split(), *" ".join(NAMES.values()).split()} - set(SUFFIXES)))


def unfetched(head: bytes) -> str | None:
    """Say what is wrong with a file that only points to the real file (git-lfs, git-annex); None for other files."""
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of the file: fetch the file with 'git lfs pull'"
    if head.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        return "a git-annex pointer instead of the file: fetch the file with 'git annex get'"
    return None


def unreadable(path: Path) -> str | None:
    """Say what the name and the first bytes show to be wrong with a recording, else None. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(64)
    suffix = path.suffix.lower()
    if suffix in SOUNDS and suffix not in SUFFIXES and not head.startswith(MAGIC):
        return unfetched(head) or f"a {suffix} file, a format that is not supported: convert it to .wav or .flac"
    return unfetched(head)
