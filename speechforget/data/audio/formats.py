"""Which files are recordings, by their names, and why some of them cannot be read."""

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
    ".m4a .m4b .mp4 .m4v .mov .aac .adts .wma .asf .amr .awb .3gp .3gpp .3g2 .webm .weba .mka .mkv .avi .ape .wv .tta .tak .ac3 .eac3 .dts "
    ".ra .rm .shn .spx .mpc .qcp .g722 .g729 .gsm .vox .dss .ds2 .dsf .dff .raw .pcm .al .ul"
)
# How files begin that libsndfile reads, whatever they are called.
MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"ID3", b"NIST")


def readable(formats: set[str]) -> tuple[str, ...]:
    """The endings of what a libsndfile with these formats reads. Formats that other programs use for numbers (.mat) are none of sound."""
    return tuple(suffix for name, suffixes in NAMES.items() if name in formats for suffix in suffixes.split())


SUFFIXES = readable(set(soundfile.available_formats()))
SOUNDS = (
    *SUFFIXES,
    *sorted({*FOREIGN.split(), *" ".join(NAMES.values()).split()} - set(SUFFIXES)),
)  # with those that libsndfile cannot read


def unfetched(head: bytes) -> str | None:
    """What is wrong with a file that begins like this, where it only says from where the real one is to be had; None else."""
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer and not the file itself: fetch it with 'git lfs pull'"
    if head.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/")):
        return "a git-annex pointer and not the file itself: fetch it with 'git annex get'"
    return None


def unreadable(path: Path) -> str | None:
    """What is wrong with a recording, as far as its name and its first bytes tell; None where only decoding can tell. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(64)
    suffix = path.suffix.lower()
    if suffix in SOUNDS and suffix not in SUFFIXES and not head.startswith(MAGIC):
        return unfetched(head) or f"a {suffix} file, which is not read: convert it to .wav or .flac"
    return unfetched(head)
