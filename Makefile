# Both commands work from a bare checkout: the first makes .venv from the pinned, hashed lock.
PYTHON ?= python3
RUN = .venv/bin/metacontrast
OUT ?= runs
.PHONY: demo test lint lock clean

demo: .venv/ready
	$(RUN) demo --out $(OUT)/demo

test: .venv/ready lint
	.venv/bin/python -m pytest

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "metacontrast needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Renews the lock (needs uv); the file names no index, so any mirror serves it.
lock:
	uv pip compile pyproject.toml --group dev --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-header --upgrade --quiet --output-file requirements.lock

clean:
	rm -rf .venv build dist
