"""What needs packages that are no part of the main lock waits for `make test-torch`."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["src/metacontrast/torch", "docs/torch.md"]
collect_ignore_glob = [] if find_spec("torch") else ["src/metacontrast/bench/_torch_*.py"]
# Modules are imported in search of examples.
if find_spec("jaxopt") is None:
    collect_ignore += ["src/metacontrast/bench/_jaxopt.py"]
