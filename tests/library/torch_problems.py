"""What the tests of the part for PyTorch learn."""

import numpy as np
import torch

import metacontrast as mc
import metacontrast.torch as mct

torch.set_num_threads(1)  # what is this small takes longer with more


def squares(predict, data):
    return ((predict(data.x) - data.y) ** 2).sum()


# Linear regression of complex synapses, with a closed form.


class Regression(torch.nn.Module):
    """Weights phi, a resting point and strengths for them."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        parameter = lambda *shape: torch.nn.Parameter(torch.tensor(rng.normal(size=shape)))
        self.phi, self.omega, self.log_lam = parameter(3), parameter(3), parameter(3)

    def pull(self):
        return (self.log_lam.exp() * (self.phi - self.omega) ** 2).sum()


def misfit(phi, data):
    return ((data.x @ phi - data.y) ** 2).sum()


def regression(**changes):
    settings = {
        "module": Regression(),
        "inner": lambda m, task: misfit(m.phi, task.train) + m.pull(),
        "outer": lambda m, task: misfit(m.phi, task.test),
        "meta": ["omega", "log_lam"],
    }
    return mct.Problem(**settings | changes)


def regression_task(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: torch.tensor(rng.normal(size=shape))
    return mc.Task(mc.Data(draw(4, 3), draw(4)), mc.Data(draw(5, 3), draw(5)))


def one_newton_step(loss, params):
    """Exact for quadratic losses."""
    (phi,) = params
    (g,) = torch.autograd.grad(loss(), phi, create_graph=True)
    rows = [torch.autograd.grad(x, phi, retain_graph=True)[0] for x in g]
    with torch.no_grad():
        phi -= torch.linalg.solve(torch.stack(rows), g)


def exact_gradients(problem, task):
    """By going back through the solution of the normal equations."""
    omega, log_lam = problem.module.omega, problem.module.log_lam
    x, y = task.train
    curvature = x.T @ x + torch.diag(log_lam.exp())
    phi = torch.linalg.solve(curvature, x.T @ y + log_lam.exp() * omega)
    grads = torch.autograd.grad(misfit(phi, task.test), [omega, log_lam])
    return torch.cat(grads).numpy()


def gradients(problem, solver, rule, task):
    for p in problem.slow.values():
        p.grad = None
    mct.backward(problem, solver, rule, task)
    return torch.cat([p.grad for p in problem.slow.values()]).numpy()


# Learners with random numbers, and with buffers.


def noisy(log, **changes):
    """The regression, whose two losses drop weights out, and which notes what it drew."""

    def inner(m, task):
        mask = torch.nn.functional.dropout(torch.ones(3, dtype=torch.float64), 0.3)
        log.append(mask.tolist())
        return misfit(m.phi * mask, task.train) + m.pull()

    def outer(m, task):
        return misfit(torch.nn.functional.dropout(m.phi, 0.3), task.test)

    return regression(inner=inner, outer=outer, **changes)


def noting(log, solver):
    """The solver, which notes in `phases` what was drawn in each."""
    phases = []

    def noted(loss, params):
        begins = len(log)
        solver(loss, params)
        phases.append(log[begins:])

    return noted, phases


class Normalised(torch.nn.Module):
    """A fast head on slow, batch-normalised features."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.head = torch.nn.Linear(4, 1)
        self.fixed = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.double()

    def forward(self, x):
        return self.head(self.body(x))[:, 0] * self.fixed


def normalised(module):
    return mct.Problem(
        module, lambda m, t: squares(m, t.train), lambda m, t: squares(m, t.test), ["body.*"]
    )
