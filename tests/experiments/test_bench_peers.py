"""Each library that is compared finds our meta-gradient; those not installed are passed over."""

from functools import cache
from importlib.util import find_spec

import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast.bench import _against, _images, _rivals
from metacontrast.bench._fresh import first

# Old libraries warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")
OTHERS = [name for name, rival in _rivals.RIVALS.items() if rival.like]


@pytest.mark.parametrize("name", OTHERS)
def test_the_same_gradient(name):
    for package in _rivals.RIVALS[name].needs:
        pytest.importorskip(package)
    assert _rivals.disagreement(name, ours(_rivals.RIVALS[name].like)) <= _rivals.AGREE


@cache
def ours(name):
    return _rivals.RIVALS[name].make(_rivals.small_case())()


def test_a_rival_that_computes_something_else_is_not_timed(monkeypatch):
    rival = _rivals.Rival(_rivals.RIVALS[_rivals.IMPLICIT].make, (), _rivals.OURS)
    monkeypatch.setitem(_rivals.RIVALS, "wrong", rival)
    with pytest.raises(ArithmeticError, match="wrong: its meta-gradient is"):
        _against.agreed(["wrong"], lambda what: None)


def test_absent_libraries_are_named(monkeypatch):
    monkeypatch.setattr(_rivals, "find_spec", lambda package: None)
    here, absent = _rivals.present()
    assert set(here) == {_rivals.OURS, _rivals.UNROLLED, _rivals.IMPLICIT}
    assert set(absent) == set(OTHERS) | {"learn2learn"}
    assert absent["higher, unrolled"] == "torch, higher not installed"


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("strided", [True, False])
def test_conv4_in_torch_learns_the_same(strided):
    from metacontrast.bench._torch_conv4 import settings

    at = _images.Conv4Case(6, strided, 5, 2, 4)
    learn, omega, data = _images.conv4_learned(at, jnp.float64)
    ours = np.asarray(learn(omega, data)[0]["w"])
    assert np.abs(ours - np.asarray(omega[0]["w"])).max() > 1e-3  # it has moved
    for learned in settings(at, omega, data).values():
        np.testing.assert_allclose(learned(), ours, rtol=0, atol=1e-13)


def test_the_first_result_of_a_fresh_process():
    begun = first(_rivals.IMPLICIT, ("metacontrast",), _rivals.case(1, 2))
    # Building and compiling takes memory that no import has taken; our own peak is not counted.
    assert begun.seconds > 0 and begun.mib > 1
    with pytest.raises(OSError, match="nobody: its process ended with status 1: KeyError"):
        first("nobody", ("json",), _rivals.case(1, 2))
