"""The last two checkpoints of a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._problem import PyTree


class Checkpoints:
    """Orbax checkpoints of any pytree of numbers and keys, which come back with their structure.

    A context manager. Each becomes visible only when it is complete, so that a process killed
    while it writes one leaves the one before.
    """

    def __init__(self, path: Path) -> None:
        # Imported here because it takes longer than all else together.
        from orbax.checkpoint import v1 as ocp

        latest = ocp.training.preservation_policies.LatestN(2)
        # Of several processes, only the first one saves, and waits for no other.
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        context = ocp.Context(multiprocessing_options=alone) if jax.process_count() > 1 else None
        self._orbax = ocp.training.Checkpointer(
            path.absolute(),
            context=context,
            preservation_policy=latest,
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._orbax.close()

    def steps(self) -> list[int]:
        """The steps that have one, ascending."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def drop_after(self, step: int) -> None:
        """Delete those of later steps."""
        for later in self.steps():
            if later > step:
                shutil.rmtree(Path(self._orbax.directory) / str(later))
        self._orbax.reload()

    def save(self, step: int, tree: PyTree) -> None:
        """Save `tree`, and delete all but the last two."""
        # As a list of NumPy arrays: independent of the device and of how optax nests its states.
        leaves = [_stored(leaf) for leaf in jax.tree.leaves(tree)]
        leaves = [leaf for leaf in leaves if leaf.size]  # Orbax refuses empty arrays
        self._orbax.save_checkpointables(step, {"leaves": leaves}, force=True)

    def load(self, step: int) -> list[np.ndarray]:
        """The arrays that were saved; `fitted` gives them their structure back."""
        return [np.asarray(leaf) for leaf in self._orbax.load_checkpointables(step)["leaves"]]


def fitted(saved: list[np.ndarray], like: PyTree) -> PyTree:
    """What was saved, with the structure of `like`; its leaves are NumPy arrays or keys.

    Raises:
        ValueError: if leaves, shapes or types are not those of `like`.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    kept = [(path, leaf) for path, leaf in paths if _stored(leaf).size]
    if len(saved) != len(kept):
        raise ValueError(f"out: the checkpoint holds {len(saved)} arrays, not {len(kept)}{_FIT}")
    found = iter([_restored(p, x, v) for (p, x), v in zip(kept, saved, strict=True)])
    leaves = [next(found) if _stored(leaf).size else leaf for _, leaf in paths]
    return jax.tree.unflatten(structure, leaves)


_FIT = (
    "; resume a run with the theta, the optimizer and the precision (jax_enable_x64) that it was "
    "started with."
)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _stored(leaf: Any) -> np.ndarray:
    # A copy: a view would forbid the donation of the leaf's buffer.
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _restored(path: Any, like: Any, value: np.ndarray) -> Any:
    wanted = _stored(like)
    if (wanted.shape, wanted.dtype) != (value.shape, value.dtype):
        raise ValueError(
            f"out: {jax.tree_util.keystr(path)} is {value.dtype}{list(value.shape)} in the "
            f"checkpoint, not {wanted.dtype}{list(wanted.shape)}{_FIT}"
        )
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
    return value
