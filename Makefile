# Both commands work from a bare checkout: the first makes .venv from the pinned, hashed lock.
PYTHON ?= python3
RUN = .venv/bin/metacontrast
OUT ?= runs
.PHONY: demo test test-torch bench lint lock clean

demo: .venv/ready
	$(RUN) demo --out $(OUT)/demo

test: .venv/ready lint
	.venv/bin/python -m pytest

# PyTorch's part, in a second environment on top of the first. On Linux pip must find the CPU build of
# torch: PyTorch has an index of them for PIP_EXTRA_INDEX_URL.
test-torch: .venv-torch/ready
	.venv-torch/bin/python -m pytest -n 0 src/metacontrast/torch tests/test_torch.py tests/test_bench_peers.py docs/torch.md
	.venv-torch/bin/python -m mypy

.venv-torch/ready: .venv/ready requirements-torch.lock
	.venv/bin/python -m venv --clear .venv-torch
	.venv/bin/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' > \
	  "$$(.venv-torch/bin/python -c 'import site; print(site.getsitepackages()[0])')/main.pth"
	.venv-torch/bin/python -m pip install --quiet --require-hashes --requirement requirements-torch.lock
	touch $@

# Speed and memory, also against other libraries, which are in a third environment on top.
bench: .venv-bench/ready
	.venv-bench/bin/python -m metacontrast bench --out $(OUT)/bench

.venv-bench/ready: .venv-torch/ready requirements-bench.lock
	.venv/bin/python -m venv --clear .venv-bench
	.venv-torch/bin/python -c 'import sysconfig; p = sysconfig.get_path("purelib"); print(f"import site; site.addsitedir({p!r})")' > \
	  "$$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch.pth"
	.venv-bench/bin/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-bench.lock
	touch $@

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

# Renews both locks (needs uv); the files name no index, so any mirror serves them. torch has one by
# itself, without its gigabytes of CUDA packages: on Linux it is the CPU build, which is not on PyPI
# and whose hash (CPython 3.11, x86-64) is given here.
TORCH = 2.13.0
TORCH_CPU = 6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
CUDA = cuda-bindings cuda-toolkit nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
  nvidia-nvshmem-cu13 triton
lock:
	uv pip compile pyproject.toml --group dev --extra plots --extra sklearn --universal --python-version 3.11 \
	  --generate-hashes --no-header --upgrade --quiet --output-file requirements.lock
	printf '%s\n' $(CUDA) > .venv-cuda.txt
	rm -f requirements-torch.lock
	echo 'torch==$(TORCH)' | uv pip compile - --excludes .venv-cuda.txt --universal \
	  --python-version 3.11 --constraints requirements.lock --generate-hashes --no-header \
	  --no-annotate --quiet --output-file requirements-torch.lock
	sed -i.old "s/^torch==.*/torch==$(TORCH)+cpu ; sys_platform == 'linux' \\\\\n    --hash=sha256:$(TORCH_CPU)\ntorch==$(TORCH) ; sys_platform != 'linux' \\\\/" requirements-torch.lock
	rm .venv-cuda.txt requirements-torch.lock.old
	printf '%s\n' higher jaxopt torchopt graphviz optree | uv pip compile - --no-deps --universal \
	  --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --output-file requirements-bench.lock

clean:
	rm -rf .venv .venv-torch .venv-bench build dist
