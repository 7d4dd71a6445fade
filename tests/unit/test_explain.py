"""Explanations: every number has one, names are found, and the page is the text of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.score_tables import METRICS, make_tables

from speechforget import explain
from speechforget.config.inputs import metrics_in
from speechforget.errors import UserError
from speechforget.evaluation.audit.catalogue import ABOUT, HARD
from speechforget.evaluation.compare import resolve

ROOT = Path(__file__).parents[2]
LISTED = sorted({str(path) for one in METRICS for path in metrics_in(OmegaConf.load(one))})


def test_everything_that_computes_numbers_is_explained():
    assert len(explain.explanations()) > 15
    assert not explain.unexplained()


def test_every_figure_of_an_audit_is_explained():
    for name in (*ABOUT, f"{HARD}exposure"):
        assert explain.find(name).folder == "evaluation/audit", name


def test_what_has_no_explanation_is_found(monkeypatch, tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "mine.py").write_text(
        "def bare(tables, model) -> dict[str, Value]:\n    '''Compute.'''\n"
        "def _own(tables) -> dict[str, Value]: ...\n"
        "def other() -> float: ...\n"
        "class Attack(Protocol):\n    def __call__(self, subject) -> dict[str, Value]: ...\n"
        "class Probe:\n    '''Probe.'''\n    def __call__(self, subject) -> dict[str, Value]: ...\n"
    )
    monkeypatch.setattr(explain, "PACKAGE", tmp_path)
    explain.computed.cache_clear()
    try:
        assert explain.unexplained() == ["speechforget.evaluation.mine.bare", "speechforget.evaluation.mine.Probe"]
    finally:
        explain.computed.cache_clear()


def test_an_attack_is_explained_where_its_values_are(monkeypatch, tmp_path):
    fields = "".join(f"            {field}: of {field}\n" for field in explain.FIELDS)
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "probe.py").write_text(
        "'''Probe layers.\n\nMore.'''\nimport nowhere\nclass Probe:\n    '''Fit.'''\n    def __call__(self, subject):\n"
        f"        '''Compute.\n\n        Explanation:\n{fields}        '''\n"
    )
    monkeypatch.setattr(explain, "PACKAGE", tmp_path)
    for cached in (explain.computed, explain.explanations):
        cached.cache_clear()
    try:
        (one,) = explain.explanations()
        assert (one.name, one.module, one.summary) == ("Probe", "speechforget.attacks.probe", "Compute.")
        assert one.fields == {field: f"of {field}" for field in explain.FIELDS}
    finally:
        for cached in (explain.computed, explain.explanations):
            cached.cache_clear()


def test_an_explanation_without_a_field_is_an_error():
    text = "Compute.\n\nExplanation:\n    values: mine\n    meaning: x\n"
    thing = explain.Computed("mine", "here", "evaluation", text)
    with pytest.raises(ValueError, match=r"mine must have the fields values, meaning, formula"):
        explain._read(thing)


@pytest.mark.parametrize("kind", ["sample", "class"])
def test_every_value_leads_to_its_own_function(kind):
    """And no pattern names a value that the function does not give."""
    tables = make_tables(kind, rows=300)
    for path in LISTED:
        found = resolve(path)(tables, "unlearned")
        one = explain.find(next(iter(found)))
        for name in found:
            assert f"{explain.find(name).module}.{explain.find(name).name}" == path, name
        for pattern in one.values:
            assert any(explain._fit(pattern, name) >= 0 for name in found), pattern


def test_the_page_is_the_text_of_the_code():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == explain.page(), "run python -m speechforget.explain --page docs/metrics.md"


def test_a_name_is_explained_and_a_typo_names_the_nearest(capsys):
    assert explain.main(["membership_auc"]) == 0
    told = capsys.readouterr().out
    assert "computed by speechforget.evaluation.membership.auc" in told
    assert all(f"\n{field} " in told for field in explain.FIELDS)
    assert explain.main(["loss_threshold"]) == 0 and explain.main(["kl_test"]) == 0
    capsys.readouterr()
    assert explain.main(["membership_acu"]) == 1
    assert "did you mean 'membership_auc'" in capsys.readouterr().err
    assert explain.main([]) == 0
    listing = capsys.readouterr().out
    assert all(one.name in listing for one in explain.explanations())
    with pytest.raises(UserError, match="Nothing computes"):
        explain.find("")


def test_explanations_load_nothing_heavy():
    code = "import sys; from speechforget.explain import main; main([]); print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stderr
    assert not {"torch", "numpy", "scipy"} & set(loaded.split()) and "speechforget.explain" in loaded
