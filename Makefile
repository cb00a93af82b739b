# `make demo` and `make test` work from a bare checkout, with Python 3.11 or newer and make: the first
# of them makes .venv, one environment for everything, from one pinned, hashed lock.
#
# uv makes the lock and installs from it, but the lock is not a uv.lock (nor a pylock.toml): both
# write the address of the index beside every package, so that a mirror's lock differs from anyone
# else's. requirements.lock names versions and hashes only, and any index or mirror serves it.
PYTHON ?= python3
RUN = .venv/bin/metacontrast
OUT ?= runs
PYTEST = .venv/bin/python -m pytest
.PHONY: demo test pytest test-thorough test-core test-library test-experiments test-torch test-types test-pythons mutation bench figures lock clean \
  site site-check release-check test-more lint lint-style lint-types lint-spelling lint-dependencies

demo: .venv/ready
	$(RUN) demo --out $(OUT)/demo

# The checks of types and style, all three tiers of tests, and every example in docstrings and pages.
# The part for PyTorch is tested where .venv has it: see .venv/torch.
# Side by side: types are read on one core while tests are collected on the other.
test: .venv/ready
	@$(MAKE) --no-print-directory --jobs=2 lint pytest
pytest: .venv/ready
	$(PYTEST)

# What `make test` leaves out: more cases of what it holds, in some ten minutes.
test-thorough: .venv/ready
	$(PYTEST) tests -m thorough

# The rule itself, in about two minutes.
test-core test-library test-experiments: .venv/ready
	$(PYTEST) $(patsubst test-%,tests/%,$@)

test-torch: .venv/torch
	$(PYTEST) -n 0 src/metacontrast/torch docs/torch.md $(wildcard tests/*/test_torch*.py) tests/experiments/test_bench_peers.py

# The core again, with what its annotations say checked at every call.
test-types: .venv/ready
	$(PYTEST) tests/core -m "not wrong_types and not thorough" --jaxtyping-packages=metacontrast,typechecked.check

# The other Pythons at hand: tests of what a newer JAX may take another way on the newest of them, with
# the newest versions of everything (requirements-newest.lock); the README's example on every one.
test-pythons: .venv/ready
	.venv/bin/python tools/pythons.py

# Faults put into the sources one at a time: which does no test see?
mutation: .venv/ready
	.venv/bin/python -m tools.mutation

# Speed and memory, also beside other libraries.
bench: .venv/torch
	.venv/bin/python -m benchmarks --out $(OUT)/bench

# Every figure of the pages, drawn again from results that are committed, in seconds.
figures: .venv/ready
	.venv/bin/python -m tools.figures

# The site, in build/site: a warning, a tutorial that fails or a public name without an entry ends it.
site: .venv/torch .venv/more
	.venv/bin/python -m sphinx --quiet --fail-on-warning --keep-going -c tools/site docs build/site

# The site in a real browser, at the width of a phone and of a desk: chromium and chromedriver.
site-check: site
	.venv/bin/python -m tools.site.check --pictures build/site-pictures

# The wheel and the sdist, built, checked, installed and tried on every supported Python at hand, with the
# newest and the oldest dependencies.
release-check: .venv/more
	.venv/bin/python -m tools.release.check

# What is tested where its packages are: the loggers of Weights & Biases and MLflow, and flax's page.
test-more: .venv/more
	$(PYTEST) -n 0 tests/library/test_loggers.py docs/flax.md

# Also what is run before a commit, once `.venv/bin/prek install` has been: .pre-commit-config.yaml.
lint: lint-style lint-types lint-spelling lint-dependencies
lint-style: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
lint-types: .venv/ready
	.venv/bin/mypy
lint-spelling: .venv/ready
	.venv/bin/codespell
lint-dependencies: .venv/ready
	.venv/bin/deptry src

# uv is in the lock itself: pip installs it, and it the rest, in seconds. Where the packages come from
# by pip's own settings alone, pip does it all. No dependency is asked what it wants: the lock is whole.
INSTALL = install --quiet --no-deps --require-hashes --requirement
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "metacontrast needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	awk '/^[a-z]/ { chosen = /^uv==/ } chosen' requirements.lock > .venv/uv.txt
	awk '/^[a-z]/ { chosen = !/^torch==/ } chosen' requirements.lock > .venv/most.txt
	.venv/bin/python -m pip $(INSTALL) .venv/uv.txt
	.venv/bin/uv pip $(INSTALL) .venv/most.txt --python .venv --compile-bytecode || \
	  .venv/bin/python -m pip $(INSTALL) .venv/most.txt
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# PyTorch comes into the same environment, when it is asked for. On Linux it is the CPU build (that of
# PyPI has gigabytes of CUDA), which PyTorch keeps on an index of its own: PIP_EXTRA_INDEX_URL or
# PIP_FIND_LINKS tells pip where it is.
.venv/torch: .venv/ready
	awk '/^[a-z]/ { chosen = /^torch==/ } chosen' requirements.lock > .venv/torch.txt
	.venv/bin/python -m pip $(INSTALL) .venv/torch.txt
	.venv/bin/python -c 'import torch' || \
	  { echo "The lock knows the CPU build of torch for CPython 3.11 on x86-64 Linux alone." >&2; exit 1; }
	touch $@

# What the site, releases and the heavier loggers need comes when one of them is asked for.
.venv/more: .venv/ready requirements-more.lock
	.venv/bin/uv pip $(INSTALL) requirements-more.lock --python .venv
	touch $@

# Renews the locks. On Linux torch is the CPU build, which is not on PyPI and whose hash (CPython
# 3.11, x86-64) is given here; its CUDA packages are left out. One version of each package serves
# every Python here; the second lock has the newest versions on the newest Python, without tools.
TORCH = 2.13.0
TORCH_CPU = 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
TORCH_LINUX = sys_platform == 'linux' and platform_machine == 'x86_64' and python_full_version < '3.12'
CUDA = cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
  nvidia-nvshmem-cu13 triton
COMPILE = .venv/bin/uv pip compile pyproject.toml --universal --generate-hashes --no-header --upgrade --quiet
EXTRAS = --extra optimistix --extra plots --extra sklearn --extra tensorboard --extra torch
lock: .venv/ready
	printf '%s\n' $(CUDA) > .venv/cuda.txt
	printf '%s\n' 'torch==$(TORCH)' 'importlib-metadata<10' > .venv/versions.txt # MLflow's
	$(COMPILE) --python-version 3.11 --fork-strategy fewest $(EXTRAS) --group dev --group bench \
	  --excludes .venv/cuda.txt --constraints .venv/versions.txt --output-file requirements.lock
	sed -i.old "s/^torch==.*/torch==$(TORCH)+cpu ; $(TORCH_LINUX) \\\\\n    --hash=sha256:$(TORCH_CPU)\ntorch==$(TORCH) ; sys_platform != 'linux' \\\\/" requirements.lock
	sed -i.old '/ via -[rc]* \.venv/d; /^    #   -[rc] \.venv/d' requirements.lock
	rm requirements.lock.old
	grep '^[a-z].*==' requirements.lock | grep -v '^torch==' | sed 's/ *\\$$//' > .venv/locked.txt
	$(COMPILE) --python-version 3.11 --fork-strategy fewest --extra wandb --extra mlflow --group docs --group release \
	  --constraints .venv/locked.txt --output-file requirements-more.lock
	sed -i.old '/ via -[rc]* \.venv/d; /^    #   -[rc] \.venv/d' requirements-more.lock
	rm requirements-more.lock.old
	$(COMPILE) --python-version 3.13 --extra optimistix --extra plots --extra sklearn --group test \
	  --output-file requirements-newest.lock

clean:
	rm -rf .venv .venv-3* .compiled build dist
