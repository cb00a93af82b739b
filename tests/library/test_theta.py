"""A trained theta comes back as it was, and not from what is damaged or of another kind."""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import assert_same

import metacontrast as mc
from metacontrast.nets import mlp
from metacontrast.tasks import sine
from metacontrast.train import load_theta, save_theta

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import numpy_sine


class Pair(NamedTuple):
    """A container that no file may call."""

    first: object
    second: object


@pytest.mark.parametrize(
    "theta",
    [
        jnp.array(0.5),
        {"w": jnp.ones((2, 3)), "b": [jnp.ones(2, jnp.bfloat16), None], "t": (jnp.ones(0),)},
        mc.Synapse(omega={"a/b": jnp.ones(2)}, log_lam=jnp.array(0.1, jnp.float16)),
        mc.Synapse(log_lam=(jnp.ones(1), [])),
        {"x": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "n": 1.5},
    ],
)  # fmt: skip
def test_a_theta_comes_back_with_its_structure_and_types(tmp_path, theta):
    path = save_theta(tmp_path / "theta.npz", theta)
    assert_same(load_theta(path), jax.tree.map(jnp.asarray, theta))
    assert_same(load_theta(path, like=theta), jax.tree.map(jnp.asarray, theta))


def test_other_containers_come_back_as_dicts_or_as_those_they_are_to_be_like(tmp_path):
    theta = Pair(jnp.ones(2), mlp(1, 3, 1, 1).init(jax.random.key(0)))
    path = save_theta(tmp_path / "theta.npz", theta)
    plain = load_theta(path)
    assert plain["first"].tolist() == [1, 1]
    assert plain["second"]["layers"][0]["weight"].shape == (3, 1)
    assert_same(load_theta(path, like=theta), theta)
    assert isinstance(load_theta(path, like=theta), Pair)


def test_what_does_not_fit_names_the_leaf(tmp_path):
    path = save_theta(tmp_path / "theta.npz", {"w": jnp.ones(2), "b": jnp.ones(1)})
    with pytest.raises(ValueError, match=r"^like: w is float64\[3\], and float64\[2\] in .*npz"):
        load_theta(path, like={"w": jnp.ones(3), "b": jnp.ones(1)})
    with pytest.raises(ValueError, match=r"^like: b is absent, and float64\[1\] in"):
        load_theta(path, like={"w": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"^theta: leaf \['w'\] is str, which is no array"):
        save_theta(path, {"w": "text"})
    with pytest.raises(ValueError, match=r"^theta: two leaves are named 'a/b'"):
        save_theta(path, {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}})


def test_what_is_damaged_or_another_file_says_what_to_do(tmp_path):
    path = save_theta(tmp_path / "theta.npz", {"w": jnp.ones(2)})
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^path: .*theta.npz is damaged.*resume the run"):
        load_theta(path)
    np.savez(path, w=np.ones(2))
    with pytest.raises(ValueError, match=r"^path: .*was not written by save_theta"):
        load_theta(path)
    with pytest.raises(FileNotFoundError):
        load_theta(tmp_path / "none.npz")


def test_numpy_alone_learns_a_task_from_a_theta_as_the_library_does(tmp_path, monkeypatch, capsys):
    net = mlp(1, 40, 2, 1, jnp.tanh)
    omega = jax.jit(net.init)(jax.random.key(0))
    theta = mc.Synapse(omega, jax.tree.map(lambda x: jnp.full(x.shape, jnp.log(5.0)), omega))
    path = save_theta(tmp_path / "theta.npz", theta)
    residual = lambda phi, theta, example: net.apply(phi, example.x) - example.y
    inner = mc.LeastSquares(residual, lambda task: task.train, lambda theta: theta)
    problem = mc.Problem(lambda theta, task: theta.omega, inner, inner)
    task, steps = sine(jax.random.key(1)), 6
    solver = mc.gauss_newton(steps)
    phi = jax.jit(lambda *at: mc.solve_inner(problem, solver, *at).phi)(theta, task)
    learned = numpy_sine.learn(
        path, *(np.asarray(x) for x in (task.train.x, task.train.y[:, 0])), steps
    )
    shapes = numpy_sine.load(path)[2]
    x = np.linspace(-5, 5, 7)[:, None]
    ours = [float(net.apply(phi, jnp.asarray(row))[0]) for row in x]
    # The same steps, in another order of summation.
    np.testing.assert_allclose(
        numpy_sine.network(learned, shapes, x)[0], ours, rtol=1e-9, atol=1e-9
    )
    monkeypatch.setattr(sys, "argv", ["numpy_sine.py", str(path)])
    numpy_sine.main()
    said = capsys.readouterr().out
    assert all(
        f"mean squared error {word} learning 10 points: " in said for word in ("before", "after")
    )
