"""The former name of `data.audio.files`, kept for scripts that read sound by it."""

from speechforget.data.audio.files import read_pcm, read_sound, read_window

__all__ = ["read_pcm", "read_sound", "read_window"]
