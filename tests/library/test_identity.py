"""What a run depends on, as it is read off the objects themselves."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import toy_run

from metacontrast._checked import checked
from metacontrast.nets import mlp
from metacontrast.train._identity import identity

RATE = 0.1


def made(rate, note=""):
    """A function that closes over a number."""

    def loss(phi, power=2):
        """Some loss."""
        return rate * phi**power + RATE

    return loss


def test_what_a_function_depends_on_is_told_by_name():
    told = identity(loss=made(0.5))
    assert re.fullmatch("[0-9a-f]{12}", told.pop("loss.code"))
    assert told == {
        "loss": "made.<locals>.loss", "loss.power": 2, "loss.rate": 0.5, "loss.RATE": RATE,
    }  # fmt: skip
    assert identity(loss=jax.jit(made(0.5))) == identity(loss=made(0.5))


def test_a_network_that_was_called_is_still_the_same():
    """What checks its arguments reads the annotations when they are first needed."""
    net = mlp(1, 3, 1, 1)
    before = identity(net=net.apply)
    net.apply(net.init(jax.random.key(0)), jnp.ones(1))
    assert identity(net=net.apply) == before != identity(net=mlp(1, 3, 1, 1, jnp.sin).apply)
    function = lambda x: x
    assert identity(f=checked(function)) == identity(f=function)


def test_code_counts_and_its_words_do_not():
    source = "def f(x):\n    {}\n    return x + {}\n"

    def code(*parts):
        space = {}
        exec(source.format(*parts), space)
        return identity(f=space["f"])["f.code"]

    assert code('"one"', 1) == code('"""two\n\n    """', 1) != code('"one"', 2)


def test_arrays_count_by_value_where_devices_do_not_differ():
    data = np.random.default_rng(0).normal(size=100)
    assert identity(x=data) != identity(x=data + 1e-9)
    assert identity(x=jnp.asarray(data)) == identity(x=jnp.asarray(data) + 1e-9)
    assert identity(x=jnp.arange(100)) != identity(x=jnp.arange(100) + 1)
    assert identity(beta=jnp.array(0.1)) != identity(beta=jnp.array(0.2))


def test_what_is_told_is_the_same_in_every_process():
    code = "import toy_run, json; from metacontrast.train._identity import identity\n"
    code += "print(json.dumps(identity(a=toy_run.nested, b=toy_run.OPTIMIZER, c={'x', 'y'})))"
    env = toy_run.environment(PYTHONHASHSEED="5")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    expected = identity(a=toy_run.nested, b=toy_run.OPTIMIZER, c={"x", "y"})
    assert json.loads(done.stdout) == expected, done.stderr
