"""Make the entry of one result in a record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechforget.record.children import children
from speechforget.record.command import SPEAKER, command_of, without_speakers
from speechforget.record.evidence import Evidence, keys_of
from speechforget.record.folders import Outputs
from speechforget.record.hidden import hidden_named, hidden_settings
from speechforget.record.ledger import read_ledger
from speechforget.record.request import describe_request
from speechforget.record.salt import Salt
from speechforget.record.shared import Shared
from speechforget.store.files import read_json

# The numbers of one metric of one model, in this order; trailing ones that are null are left out.
COLUMNS = (
    "value",
    "low",
    "high",
    "count",
    "gap",
    "oracle_spread",
    "null_low",
    "null_high",
    "reason",
    "named",
)
WEIGHTS = (".safetensors", ".bin", ".pt")
MOVED = "it is not below this folder"
# Parts of a config that say where files go and who runs.
NO_SETTINGS = ("output", "cache", "plan", "only", "lock", "logger", "launch")
FACTS = ("dataset", "label", "model", "method", "minimised", "holdout", "no_oracle", "untried", "objective", "flags")


class Entries:
    """Make the entries of all results of a record, which share values and evidence."""

    def __init__(self, outputs: Outputs, salt: Salt) -> None:
        self.outputs, self.salt = outputs, salt
        self.shared, self.evidence, self.derived = Shared(), Evidence(outputs), children(outputs)

    def entry(self, folder: Path) -> dict[str, Any]:
        """Describe one finished result. Raises UserError for a damaged artefact."""
        result, about = read_json(folder / "result.json"), read_json(folder / "about.json")
        self.evidence.add_ancestors(folder)
        config, ledger = about.get("config") or {}, read_ledger(folder)
        put = self.shared.put
        return {
            "key": self.outputs.key(folder),
            "path": self.evidence.add(folder),
            "made": about.get("time"),
            "commit": result.get("commit"),
            "versions": put("versions", result.get("versions") or {}),
            "command": command_of(config) if config else None,
            "settings": put(
                "settings",
                {
                    name: put("settings", value) if isinstance(value, dict) else value
                    for name, value in hidden_settings(without_speakers(config)).items()
                    if name not in NO_SETTINGS
                },
            ),
            "seeds": (result.get("identity") or {}).get("seeds") or {"seed": result.get("seed")},
            **{name: result.get(name) for name in FACTS},
            "delivered": result.get("delivered", "unlearned"),
            **({"exact": result["exact"]} if result.get("exact") else {}),
            "notes": list(result.get("notes") or []),
            "request": put("requests", describe_request(folder, result, self.salt)),
            **self._artefacts(self.outputs.inputs(folder), ledger),
            "cost": put("costs", result.get("cost") or {}),
            "comparison": {
                model: self._numbers(entries, _told_apart(result)) for model, entries in result["comparison"].items()
            },
            "audit": put("audits", result["audit"]) if result.get("audit") else None,
            "power": put("powers", result["power"]) if result.get("power") else None,
            "verdict": result.get("verdict") or [],
            "children": put("children", self._children(folder)),
            "purge": ledger,
        }

    def _children(self, folder: Path) -> list[dict[str, str]]:
        """List what was made from the original of a result."""
        return self.derived.get(str((self.outputs.inputs(folder).get("models") or {}).get("original")), [])

    def _artefacts(self, inputs: Mapping[str, Any], ledger: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return key and path of models, scores, attacks, audit and power, with the hashes of weights."""
        found: dict[str, Any] = {"models": {}, "scores": {}, "attacks": {}, "audited": {}}
        for part, name, stage, key in keys_of(inputs):
            entry = self._artefact(stage, key, ledger)
            if part == "attacks":
                found[part].setdefault(name, []).append(entry)
            else:
                found[part][name] = entry
        return found

    def _artefact(self, stage: str, key: str, ledger: Mapping[str, Any] | None) -> dict[str, str]:
        folder = self.outputs.find(stage, key)
        if folder is not None:
            path, files = self.evidence.add(folder), self.outputs.files(folder)
        else:
            gone = next((each for each in (ledger or {}).get("gone", ()) if each.get("key") == key), None)
            purged = ledger is not None and gone is not None
            self.evidence.lacks(stage, key, f"it was purged on {ledger['made']}" if ledger and purged else MOVED)
            path, files = None, (gone or {}).get("files") or {}
        weights = {name: held["sha256"] for name, held in files.items() if name.endswith(WEIGHTS)}
        return self.shared.put("artefacts", {"key": key, "path": path, **({"weights": weights} if weights else {})})

    def _numbers(self, entries: Mapping[str, Mapping[str, Any]], label: str) -> dict[str, str]:
        """Share the numbers of a model: names of the metrics, a row for each, and how many oracles there are."""
        rows = [self._row(name, entry, label) for name, entry in entries.items()]
        oracles = next((entry["oracles"] for entry in entries.values() if "oracles" in entry), None)
        names = self.shared.put("names", list(entries))
        return self.shared.put("numbers", {"names": names, "rows": rows, "oracles": oracles})

    def _row(self, metric: str, entry: Mapping[str, Any], label: str) -> list[Any]:
        row = [entry.get(column) for column in COLUMNS[:-1]]
        row.append(hidden_named(metric, list(entry.get("named") or []), label, self.salt) or None)
        while row and row[-1] is None:
            row.pop()
        return row


def _told_apart(result: Mapping[str, Any]) -> str:
    """Return what the groups of metrics are: speakers, too, where a request removes who spoke."""
    removed = (result.get("request") or {}).get("attribute")
    return SPEAKER if removed == SPEAKER else str(result["label"])


def numbers_of(result: Mapping[str, Any], model: str) -> dict[str, dict[str, Any]]:
    """Return the numbers of a model by metric and name, as result.json has them. result: expanded."""
    table = result["comparison"].get(model)
    if table is None:
        return {}
    padded = ([*row, *[None] * (len(COLUMNS) - len(row))] for row in table["rows"])
    return {
        name: {**dict(zip(COLUMNS, row, strict=True)), "oracles": table["oracles"]}
        for name, row in zip(table["names"], padded, strict=True)
    }
