"""Networks, and losses in a run, multiply with the precision that is asked of them."""

import json

import jax
import jax.numpy as jnp
import optax
import pytest
from precision import low_precision, precisions

import metacontrast as mc
from metacontrast.nets import conv, conv4, mlp, transformer
from metacontrast.train import evaluator, meta_train

IMAGES, ROW, SYMBOLS = jnp.ones((2, 16, 16, 1)), jnp.ones(3), jnp.arange(4)
NETS = {
    "conv4, patches": (lambda **p: conv4(2, size=16, lowering="patches", **p), IMAGES),
    "conv4, reverse": (lambda **p: conv4(12, size=16, lowering="reverse", **p), IMAGES),
    "conv4, lax": (lambda **p: conv4(2, size=16, lowering="lax", **p), IMAGES),
    "mlp": (lambda **p: mlp(3, 4, 1, 2, **p), ROW),
    "transformer": (lambda **p: transformer(5, 8, 4, 1, 2, **p), SYMBOLS),
}


@pytest.mark.parametrize("name", NETS)
def test_the_products_of_a_network_are_as_precise_as_is_said(name):
    make, x = NETS[name]
    phi = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(make().init, jax.random.key(0))
    )
    found = {}
    # Whatever the caller's or the backend's own is; also in loops, which are differentiated late.
    with low_precision("bfloat16"):
        for precision in (None, "highest", "tensorfloat32"):
            apply = make(**({"precision": precision} if precision else {})).apply
            loss = lambda phi, apply=apply: jax.lax.scan(
                lambda a, _: (a + jnp.sum(apply(phi, x) ** 2), None), 0.0, length=2
            )[0]
            found[precision] = set(precisions(jax.grad(loss), phi))
    assert found == {
        None: {jax.lax.Precision.HIGHEST},
        "highest": {jax.lax.Precision.HIGHEST},
        "tensorfloat32": {jax.lax.Precision.HIGH},
    }


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"precision: must be 'highest', .*, not 'half'"):
        conv(IMAGES, jnp.ones((3, 3, 1, 1)), precision="half")


@pytest.mark.parametrize("precision", [None, "tensorfloat32"])
def test_the_losses_of_a_run_are_as_precise_as_is_said(precision, tmp_path):
    seen = set()

    def loss(phi, theta, task):
        seen.add(jax.config.jax_default_matmul_precision)
        return (phi - theta) ** 2 + (phi - task) ** 2

    problem = mc.Problem(lambda theta, task: theta, loss, loss)
    solver, given = mc.descend(optax.sgd(0.25), 20), {"precision": precision} if precision else {}
    scores = evaluator(problem, solver, **given)
    with low_precision("bfloat16"):  # as a backend's own default may be
        meta_train(
            problem, solver, mc.Contrastive(0.1), jax.random.normal, jnp.zeros(()), optax.sgd(0.1),
            steps=1, tasks=1, seed=0, log_every=1, steps_per_dispatch=1, out=tmp_path / "run",
            validate=lambda theta: {"loss": scores(theta, jnp.ones(2)).mean()}, progress=False,
            **given,
        )  # fmt: skip
        scores(jnp.zeros(()), jnp.ones(3))
    said = precision or "highest"
    assert seen == {said}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["precision"] == said
