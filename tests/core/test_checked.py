"""Arguments are what their annotations say, or the first line of an error names them."""

import inspect
import pickle
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic, random_quadratic

import metacontrast as mc
from benchmarks import _malformed_calls as calls
from benchmarks.malformed import outcome, spoilt
from metacontrast import _checked
from metacontrast._expected import takes

pytestmark = pytest.mark.wrong_types
sgd = optax.sgd(0.1)
SUBPACKAGES = [name for name in mc._SUBPACKAGES if name not in ("optimistix", "torch")]
MODULES = [mc, *(getattr(mc, name) for name in SUBPACKAGES)]


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: mc.descend("sgd", 3), TypeError, "optimizer: must be a GradientTransformation or"),
        (lambda: mc.descend(optax.adam, 3), TypeError, r"optimizer: .*as in optax.adam\(1e-3\)"),
        (lambda: mc.descend(sgd, "3"), TypeError, "steps: must be a whole number of at least 1"),
        (lambda: mc.descend(sgd, 1.5), ValueError, "steps: must be a whole number of at least 1"),
        (lambda: mc.descend(sgd, True), ValueError, "steps: .*, not True"),
        (lambda: mc.descend(sgd, 0), ValueError, "steps: .* at least 1, not 0"),
        (lambda: mc.lbfgs(float("nan")), ValueError, "tol: must be positive and finite, not nan"),
        (lambda: mc.lbfgs(float("inf")), ValueError, "tol: must be positive and finite, not inf"),
        (lambda: mc.Contrastive(jnp.zeros(2)), TypeError, r"beta: .*, not an array float64\[2\]"),
        (lambda: mc.Contrastive(jax.random.key(0)), TypeError, r"beta: .*, not an array key<fry>"),
        (
            lambda: mc.Contrastive(0.1, "backward"),
            ValueError,
            "scheme: must be 'forward', 's",
        ),
        (lambda: mc.Contrastive(0.1, control=1), TypeError, "control: must be True or False"),
        (lambda: replace(mc.Evolution(0.1), sigma=-1.0), ValueError, "sigma: must be positive"),
        (lambda: mc.meta_loss(None, None, None), TypeError, "problem: must be a Problem, not None"),
        (
            lambda: mc.nets.conv4([1, 2, 3, 0]),
            ValueError,
            "filters: .* each is a whole",
        ),
        (lambda: mc.nets.Spiking(1, 1, 1, gains=(1, 2)), ValueError, "gains: must be a tuple of 3"),
        (lambda: mc.tasks.sine("0"), TypeError, "key: must be an array, one key of jax.random"),
        (lambda: mc.tasks.sine(jnp.ones(2)), ValueError, "key: must be one key of jax.random"),
        (lambda: mc.Synapse().pull("phi"), TypeError, "phi: leaf itself is str"),
        (lambda: mc.Loss(quadratic, 0.0, 0.0)(None, 1), TypeError, ".*positional argument"),
    ],
)
def test_what_is_no_argument_is_named(call, error, said):
    with pytest.raises(error, match=f"^{said}"):
        call()


@pytest.mark.parametrize(
    ("f", "is_fine"),
    [
        (lambda a, b: a, True),
        (lambda *x: x, True),
        (lambda a, b, c=1: a, True),
        (lambda a, b, *, c=1: a, True),
        (jax.jit(lambda a, b: a), True),
        (max, True),  # which does not tell
        (lambda a: a, False),
        (lambda a, b, *, c: a, False),
        (jax.jit(lambda a: a), False),
    ],
)
def test_a_function_takes_its_arguments_or_is_refused(f, is_fine):
    assert takes(f, 2) is is_fine
    make = lambda: mc.as_solver(f)  # `(loss, phi) -> phi`
    if is_fine:
        make()
    else:
        with pytest.raises(TypeError, match=r"^solver: must be a Solver or a function of 2 arg"):
            make()


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, jnp.asarray, lambda x: 1])
def test_numbers_of_every_library_are_numbers(kind):
    mc.Contrastive(kind(0.1)), mc.Evolution(kind(0.1)), mc.lbfgs(kind(0.1))
    mc.descend(sgd, np.int32(2)), mc.tasks.texts(np.uint8(3), 1000)


def test_what_is_traced_passes_as_it_is_not_known():
    theta, task = random_quadratic(0)
    solver = mc.closed_form()
    loss = lambda beta: jax.grad(mc.meta_loss(quadratic, solver, mc.Contrastive(beta)))
    traced = jax.jit(lambda beta: loss(beta)(theta, task))
    for x, y in zip(*map(jax.tree.leaves, (traced(0.1), loss(0.1)(theta, task))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)
    jax.jit(lambda beta: jax.vmap(lambda b: loss(b)(theta, task))(beta))(jnp.array([0.1, 0.2]))
    with pytest.raises(TypeError, match=r"^beta"):  # what is known of it is looked at
        jax.jit(lambda beta: mc.Contrastive(beta))(jnp.ones(2))


def test_what_has_the_fields_of_an_optimiser_is_one():
    class Own:
        init, update = sgd

    mc.descend(Own(), 2)


def test_public_functions_are_found_by_pickle_and_keep_their_signatures():
    for module in MODULES:
        for name, function in vars(module).items():
            if inspect.isfunction(function) and not name.startswith("_"):
                assert pickle.loads(pickle.dumps(function)) is function
                assert inspect.signature(function) == inspect.signature(function.__wrapped__)


def test_every_annotation_is_understood():
    """One that is not (a name that only type checkers know) would be asked of no argument."""
    lost = set()
    for module in MODULES:
        for name, value in vars(module).items():
            ours = str(getattr(value, "__module__", "")).startswith("metacontrast")
            if name.startswith("_") or not ours or not callable(value):
                continue
            for owner in (inspect.unwrap(value), *getattr(value, "__mro__", ())):
                texts = inspect.get_annotations(owner)
                hints = _checked._hints(owner)
                lost |= {(name, x) for x, hint in hints.items() if hint is _checked.UNKNOWN}
                assert hints.keys() == texts.keys()
    assert lost == {("reweighted", "estimator")}  # scikit-learn's, which need not be installed


def test_nineteen_of_twenty_malformed_calls_are_named():
    """Of solvers and estimators; `python -m benchmarks.malformed` makes all calls."""
    make = lambda name, function=None, **more: calls.Call(
        "metacontrast", name, function or getattr(mc, name), **more
    )
    entries = [*calls._solvers(make), *calls._estimators(make)]
    found = [
        (call.name, argument, wrong, *outcome(call, argument, arguments))
        for call in entries
        for argument, wrong, arguments in spoilt(call)
    ]
    assert len(found) > 500
    missed = [row for row in found if row[3] != "named"]
    assert len(missed) < 0.05 * len(found), missed


def test_a_module_of_weights_passes_a_network():
    net = mc.nets.mlp(1, 2, 1, 1)
    phi = net.init(jax.random.key(0))
    net.apply(phi, np.ones(1))
    net.apply(jax.tree.map(lambda leaf: 2 * leaf, phi), jnp.ones(1))
    with pytest.raises(ValueError, match=r"^phi: must be weights as init draws them, not 3"):
        net.apply(3, jnp.ones(1))
