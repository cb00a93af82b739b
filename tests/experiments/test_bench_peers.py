"""Each library that is compared gives our meta-gradient; those not installed are passed over."""

from functools import cache
from importlib.util import find_spec

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import _against, _conv4, _methods
from benchmarks._first_result import time_first_result
from benchmarks._sine import sine_case

# Old libraries warn when they are imported.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.thorough]
METHODS = _methods.METHODS
OTHERS = [name for name, method in METHODS.items() if method.like]


@cache
def ours(name):
    return METHODS[name].make(_methods.small_case())()


@pytest.mark.thorough
@pytest.mark.parametrize("name", OTHERS)
def test_the_same_gradient(name):
    for package in METHODS[name].packages:
        pytest.importorskip(package)
    assert _methods.relative_difference(name, ours(METHODS[name].like)) <= _methods.TOLERANCE


def test_a_method_that_computes_something_else_is_not_timed(monkeypatch):
    made = lambda size, like="": _methods.Method(lambda case: lambda: np.full(3, size), (), like)
    methods = {"ours": made(1.0), "same": made(1.0 + 1e-9, "ours"), "wrong": made(1.001, "ours")}
    for name, method in methods.items():
        monkeypatch.setitem(METHODS, name, method)
    _against.check_agreement(["same"], lambda progress: None)
    with pytest.raises(ArithmeticError, match=r"wrong: its meta-gradient is 1\.0e-03"):
        _against.check_agreement(["wrong"], lambda progress: None)


def test_absent_libraries_are_named(monkeypatch):
    monkeypatch.setattr(_methods, "find_spec", lambda package: None)
    methods, absent = _methods.installed()
    assert set(methods) == {_methods.OURS, _methods.UNROLLED, _methods.IMPLICIT}
    assert set(absent) == set(OTHERS) | {"learn2learn"}
    assert absent["higher, unrolled"] == "torch, higher not installed"


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("strided", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_conv4_in_torch_learns_the_same(strided):
    from benchmarks._torch_conv4 import torch_programs

    case = _conv4.Conv4Case(6, strided, 5, 2, 4)
    learn, omega, data = _conv4.conv4_training(case, jnp.float64)
    # Without optimisation XLA rounds what is pooled differently in two places, none of the four is
    # then the largest, and the gradient is 0 / 0.
    learn = learn.lower(omega, data).compile({"xla_backend_optimization_level": 3})
    ours = np.asarray(learn(omega, data)[0]["w"])
    assert np.abs(ours - np.asarray(omega[0]["w"])).max() > 1e-3  # it has moved
    for train in torch_programs(case, omega, data).values():
        np.testing.assert_allclose(train(), ours, rtol=0, atol=1e-13)


@pytest.mark.thorough
def test_the_first_result_of_a_fresh_process():
    result = time_first_result(_methods.IMPLICIT, ("metacontrast",), sine_case(1, 2))
    # Building and compiling takes memory that no import has taken; our own peak is not counted.
    assert result.seconds > 0 and result.mib > 1
    with pytest.raises(OSError, match="nobody: its process ended with status 1: ModuleNotFound"):
        time_first_result("nobody", ("no_such_module",), sine_case(1, 2))
