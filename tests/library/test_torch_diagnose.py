"""PyTorch: the verdict on a meta-gradient is that of its true error, and leaves no trace."""

import copy
import random
from functools import partial

import numpy as np
import pytest

import metacontrast as mc

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)
from torch_problems import (  # noqa: E402
    Regression,
    exact_gradients,
    gradients,
    misfit,
    noisy,
    one_newton_step,
    regression,
    regression_task,
)

SGD = partial(torch.optim.SGD, lr=0.02)


def true_error(problem, solver, rule, task):
    exact = exact_gradients(problem, task)
    return np.linalg.norm(gradients(problem, solver, rule, task) - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("beta", [1e-3, 0.3, 20.0])
def test_the_error_is_the_true_one(beta):
    """Slow are two triples of numbers, whose names are not in the order of the module."""
    problem, task, rule = regression(), regression_task(), mc.Contrastive(beta)
    found = mct.diagnose(problem, one_newton_step, rule, task)
    expected = true_error(problem, one_newton_step, rule, task)
    assert found.error == pytest.approx(expected, rel=0.5)
    assert found.keys is None and found.precision is None and found.proposal is None
    assert (found.verdict == "trust") == (beta < 1) and found.nudge > beta / 100


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_a_learner_that_did_not_converge():
    problem, task, rule = regression(), regression_task(), mc.Contrastive(0.01)
    found = mct.diagnose(problem, mct.descend(SGD, 1), rule, task)
    assert found.verdict == "do not trust" and "unconverged" in found.flags
    assert found.linear_residual > 0.5


def single(**changes):
    """In float32."""
    problem = regression(module=Regression().float(), **changes)
    halves = [mc.Data(*(x.float() for x in half)) for half in regression_task()]
    return problem, mc.Task(*halves)


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize("beta, trusted", [(1e-8, False), (1e-6, True)])
def test_a_beta_below_the_round_off_of_float32(beta, trusted):
    problem, task = single()
    found = mct.diagnose(problem, one_newton_step, mc.Contrastive(beta, "symmetric"), task)
    assert (found.verdict == "trust") == trusted
    assert (found.precision > 0.1) == (not trusted)
    expected = true_error(problem, one_newton_step, mc.Contrastive(beta, "symmetric"), task)
    assert found.error == pytest.approx(expected, rel=0.5)


def test_a_loss_that_insists_on_its_type():
    inner = lambda m, t: misfit(m.phi, t.train) + m.pull() + torch.ones(3) @ m.phi
    problem, task = single(inner=inner)
    found = mct.diagnose(problem, one_newton_step, mc.Contrastive(0.01, "symmetric"), task)
    assert found.verdict == "trust" and found.precision is None


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_random_numbers_are_drawn_twice_and_differences_see_the_same():
    problem = noisy([])
    rule, solver = mc.Contrastive(0.05, "symmetric"), mct.descend(SGD, 5)
    torch.manual_seed(0)
    found = mct.diagnose(problem, solver, rule, regression_task())
    assert -1 <= found.keys < 1 and found.precision is None


def test_a_start_that_slow_parameters_set_is_displaced_with_them():
    """Learning starts at omega plus noise; with a single short step that is what matters."""
    net = mct.Synapse(torch.nn.Linear(3, 1, bias=False).double())

    def init(synapse, task):
        mct.Synapse.reset(synapse, task)
        synapse.fast.weight.add_(torch.randn(1, 3, dtype=torch.float64))

    loss = lambda data: lambda net, task: misfit(net.fast.weight[0], getattr(task, data))
    inner = lambda net, task: loss("train")(net, task) + net.pull()
    problem = mct.Problem(net, inner, loss("test"), ["omega.*", "log_lam.*"], init)
    converged = mct.diagnose(
        problem, mct.descend(SGD, 150), mc.Contrastive(0.01, "symmetric"), regression_task()
    )
    assert converged.verdict == "trust"


def trace(module):
    """All that a call may leave behind."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return (
        {name: (id(x), x.detach().clone(), x.requires_grad) for name, x in tensors.items()},
        [p.grad for p in module.parameters()],
        [part.training for part in module.modules()],
        (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()),
    )


def assert_no_trace(one, other):
    for name, (which, value, learns) in one[0].items():
        assert (which, learns) == (other[0][name][0], other[0][name][2])
        assert torch.equal(value, other[0][name][1])
    assert one[1:3] == other[1:3]
    assert torch.equal(one[3][0], other[3][0]) and one[3][2] == other[3][2]
    np.testing.assert_array_equal(one[3][1], other[3][1])


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize("fails", [False, True])
def test_it_leaves_no_trace(fails):
    """Of a network with batch norm and dropout in float32; nor where the solver raises."""
    body = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)
    )
    body[0].weight.grad = torch.ones(3, 2)
    loss = lambda net, data: ((net(data[0]) - data[1]) ** 2).mean()
    problem = mct.Problem(body, loss, loss, ["0.*"])
    data = torch.randn(8, 2), torch.randn(8, 1)
    calls, learn = [], mct.descend(SGD, 3)

    def solver(loss, params):
        calls.append(1)
        if fails and len(calls) > 6:
            raise OSError("gone")
        learn(loss, params)

    before, held = trace(body), copy.deepcopy(body.state_dict())
    ask = partial(mct.diagnose, problem, solver, mc.Contrastive(0.1), data)
    if fails:
        with pytest.raises(OSError, match="gone"):
            ask()
    else:
        assert ask().keys is not None and len(calls) <= 15 + 6
    assert_no_trace(before, trace(body))
    assert all(torch.equal(x, held[name]) for name, x in body.state_dict().items())


def test_batches_are_the_same_in_every_phase():
    torch.manual_seed(1)
    numbers = torch.utils.data.TensorDataset(torch.arange(10.0, dtype=torch.float64))
    loader = torch.utils.data.DataLoader(numbers, batch_size=5, shuffle=True)
    net = torch.nn.ParameterDict({"fast": torch.zeros(()), "slow": torch.ones(())}).double()
    problem = mct.Problem(
        net,
        lambda net, batches: (
            ((net["fast"] - next(batches)[0]) ** 2).mean() + (net["fast"] - net["slow"]) ** 2
        ),
        lambda net, batches: (net["fast"] - 1.0) ** 2,
        ["slow"],
    )
    solver = mct.descend(partial(torch.optim.SGD, lr=0.02), 150)
    rule = mc.Contrastive(0.01, "symmetric")
    found = mct.diagnose(problem, solver, rule, mct.Batches(loader))
    assert found.verdict == "trust" and found.error < 0.1 and found.keys > 0.99


def test_what_backward_refuses_is_refused():
    with pytest.raises(TypeError, match=r"^rule: "):
        mct.diagnose(regression(), one_newton_step, mc.Unrolled(), regression_task())
