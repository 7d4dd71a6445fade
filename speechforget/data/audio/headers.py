"""The length in the header of a sound file: added where it is missing, else compared with the file."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

UNKNOWN_LENGTH = 0x7FFF0000  # programs that write to a pipe put about this size, or more, into the header
# kbit/s of MPEG layer III by version and by the header's number, 1 to 14.
BIT_RATES = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# An odd flag means that a number of frames follows.
XING = re.compile(rb"(?:Xing|Info)\0\0\0[\1\3\5\7\11\13\15\17](.{4})", re.DOTALL)
MIDDLE_BIT_RATE = 9  # a frame of this bit rate has room for a length
TAGS_AT_THE_END = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI", b"\0\0\0")
# What libsndfile logs for a file that is shorter than its header states.
PROMISES = {
    "bytes": re.compile(r"^ *(?!RIFF|FORM)[\w ]+?[ :]+(?P<promised>\d+) \(?should be (?P<there>\d+)", re.MULTILINE),
    "samples": re.compile(r"frame count (?P<there>\d+) does not match value from 'ds64' chunk of (?P<promised>\d+)"),
}
PROMISED_FRAMES = re.compile(r"^ +Frames +: (\d+)$", re.MULTILINE)
CUT = re.compile(
    r"file seems to be truncated|Seems to be a truncated file|Last page lacks an end-of-stream bit", re.IGNORECASE
)


class Frames(NamedTuple):
    """The frames of an MP3 file.

    begin: position of the first, in bytes. samples: their sum. stated: number of samples that the file states, or None.
    whole: whether the last frame is complete.
    """

    begin: int
    samples: int
    stated: int | None
    whole: bool


def with_length(path: Path) -> Path | io.BytesIO:
    """Return the file itself, or its bytes with a length in the header where libsndfile would read only a part.

    This concerns WAV files of size 0, which programs write to a pipe, and MP3 files without a length, which libsndfile
    guesses from the first frame.
    """
    with path.open("rb") as file:
        start = file.read(12)
        if start[:4] == b"RIFF" and start[8:] == b"WAVE":
            offset = _empty_data(file, int.from_bytes(start[4:8], "little"))
            return path if offset is None else io.BytesIO(_patched(path.read_bytes(), offset))
    if not _may_be_mp3(start):
        return path
    content = path.read_bytes()
    frames = mp3_frames(content)
    if frames is None or frames.stated is not None:
        return path
    return io.BytesIO(_first_frame(content[frames.begin : frames.begin + 4], frames) + content[frames.begin :])


def shortfall(log: str, frames: int) -> str | None:
    """Say what is missing of a file, from the frames that libsndfile reads and from its log; None if nothing is."""
    for unit, pattern in PROMISES.items():
        for match in pattern.finditer(log):
            promised, there = int(match["promised"]), int(match["there"])
            if there < promised < UNKNOWN_LENGTH:
                return f"the header promises {promised} {unit}, the file has {there}"
    stated = PROMISED_FRAMES.search(log)
    if stated and frames < int(stated[1]) < UNKNOWN_LENGTH:
        return f"the header promises {stated[1]} samples, the file has {frames}"
    return "it ends in the middle" if CUT.search(log) else None


def missing_end(path: Path, frames: int) -> str | None:
    """Do the same for NIST SPHERE and MP3, where libsndfile does not compare the length."""
    with path.open("rb") as file:
        start = file.read(1024)
    if start.startswith(b"NIST_1A"):
        match = re.search(rb"^sample_count -i (\d+)", start, re.MULTILINE)
        if match and frames < int(match[1]):
            return f"the header promises {int(match[1])} samples, the file has {frames}"
        return None
    if not _may_be_mp3(start):
        return None
    found = mp3_frames(path.read_bytes())
    # Some encoders count the frame that states the length, too.
    if found is None or (found.whole and (found.stated or 0) < found.samples + 2 * 1152):
        return None
    if found.whole:
        return f"the header promises {found.stated} samples, the file has {found.samples}"
    return "its last frame is incomplete"


def mp3_frames(content: bytes) -> Frames | None:
    """Count the frames of an MP3 file from header to header; None if it is not layer III throughout."""
    begin = 0
    while content[begin : begin + 3] == b"ID3" and len(content) >= begin + 10:
        size = content[begin + 6 : begin + 10]
        begin += (
            10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]) + (10 if content[begin + 5] & 0x10 else 0)
        )
    offset, samples, stated = begin, 0, None
    while offset + 4 <= len(content):
        frame = _frame(content[offset : offset + 4])
        if frame is None:
            break
        length, each = frame
        if offset == begin and (xing := XING.search(content, offset, offset + 48)):
            stated = each * int.from_bytes(xing[1], "big")
        else:
            samples += each
        offset += length
    rest = content[offset:]
    if offset == begin or (rest and len(rest) >= 4 and not rest.startswith(TAGS_AT_THE_END)):
        return None
    return Frames(begin, samples, stated, offset <= len(content) and not 0 < len(rest) < 4)


def _may_be_mp3(start: bytes) -> bool:
    return start[:3] == b"ID3" or (len(start) >= 4 and _frame(start[:4]) is not None)


def _frame(header: bytes) -> tuple[int, int] | None:
    """Return bytes and samples of the layer III frame with this header; None if it is no such header."""
    if header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bit_rate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bit_rate in {0, 15} or rate == 3:
        return None
    hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    samples = 1152 if version == 3 else 576
    kilobits = BIT_RATES[1 if version == 3 else 2][bit_rate - 1]
    return samples * kilobits * 125 // hertz + (header[2] >> 1 & 1), samples


def _first_frame(header: bytes, frames: Frames) -> bytes:
    """Make a silent frame like that of the header, which states how many frames follow (a Xing header)."""
    own = bytes([header[0], header[1] | 1, MIDDLE_BIT_RATE << 4 | header[2] & 0x0C, header[3]])
    length, each = _frame(own) or (0, 1)
    one, newest = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    side = (17 if one else 32) if newest else (9 if one else 17)
    xing = b"Xing" + (1).to_bytes(4, "big") + (frames.samples // each).to_bytes(4, "big")
    return (own + bytes(side) + xing).ljust(length, b"\0")


def _empty_data(file: io.BufferedReader, promised: int) -> int | None:
    """Find the position of a WAV file's data size that is 0 although sound follows; None where the size is right."""
    size = file.seek(0, io.SEEK_END)
    file.seek(12)
    while len(header := file.read(8)) == 8:
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            follows = size - file.tell()
            return file.tell() - 4 if length == 0 and follows and promised != size - 8 else None
        file.seek(length + length % 2, io.SEEK_CUR)
    return None


def _patched(content: bytes, offset: int) -> bytes:
    return content[:offset] + b"\xff\xff\xff\xff" + content[offset + 4 :]
