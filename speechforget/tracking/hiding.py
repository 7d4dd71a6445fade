"""Hide names of people and paths in what a tracker is told of a run."""

from __future__ import annotations

from dataclasses import replace

from speechforget.record.command import without_speakers
from speechforget.record.hidden import hidden_path, hidden_settings
from speechforget.tracking.tracker import Run

HASHED, OPEN = "hashed", "open"  # values of logger.names


def names_people(folder: str) -> bool:
    """Return whether the name of an artefact's folder may name people, by a request for a speaker or a list."""
    return hidden_path(folder) != folder


def hidden(run: Run) -> Run:
    """Return a run without paths and names of people: a word in capitals stands for each in its settings.

    The digits of the key tell runs apart whose names become equal.
    """
    words = run.folder.name
    name = hidden_path(words) if names_people(words) else run.name
    return replace(run, name=name, config=hidden_settings(without_speakers(run.config)))
