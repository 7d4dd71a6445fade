# The commands that a contributor types. CI runs check, test and slow.
.PHONY: check test slow coverage pages bench

check:
	ruff check .
	ruff format --check .
	mypy

test:
	pytest

slow:
	pytest -m slow

coverage:
	pytest --cov --cov-report=term --cov-report=html

pages:
	python scripts/architecture.py
	python scripts/code_table.py
	python scripts/tracking_keys.py
	python -m speechforget.explain --page docs/metrics.md
	python scripts/reference.py

bench:
	python scripts/bench.py train
	python scripts/bench.py methods
