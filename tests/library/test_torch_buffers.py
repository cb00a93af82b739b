"""PyTorch: buffers that are None at first, grow, are replaced, are shared: all are put back."""

import copy
from functools import partial

import pytest

import metacontrast as mc

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)
from torch_problems import regression_task, squares  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")


class WithBuffer(torch.nn.Module):
    """A linear layer on what `see` makes of the input and of the buffer `kept`."""

    def __init__(self, see, kept):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1, dtype=torch.float64)
        self.see = see
        self.register_buffer("kept", kept)

    def forward(self, x):
        return self.layer(self.see(self, x))[:, 0]


def running(m, x):
    mean = x.mean(0)
    m.kept = mean if m.kept is None else 0.9 * m.kept + 0.1 * mean
    return x - m.kept


def growing(m, x):
    m.kept = torch.cat([m.kept, x])[-30:]
    return x - m.kept.mean(0)


def written(m, x):
    m.kept.mul_(0.9).add_(x.mean(0), alpha=0.1)
    return x - m.kept


def last(m, x):
    before, m.kept = m.kept, x  # a buffer that is the data themselves
    return x - before.mean(0)


def resized(m, x):
    with torch.no_grad():
        m.kept.resize_(len(m.kept) + 1, 3)[-1] = x.mean(0)
    return x - m.kept.mean(0)


def registered(m, x):
    if not hasattr(m, "late"):
        m.register_buffer("late", torch.zeros(3, dtype=x.dtype))
    m.late += 0.1 * x.mean(0)
    return x - m.late


def constant(m, x):
    return x * m.kept  # of one number in memory, which cannot be written to


zeros = partial(torch.zeros, dtype=torch.float64)
KINDS = {
    "None": (running, lambda: None),
    "replaced": (running, lambda: zeros(3)),
    "growing": (growing, lambda: zeros(0, 3)),
    "written": (written, lambda: zeros(3)),
    "data": (last, lambda: zeros(1, 3)),
    "resized": (resized, lambda: zeros(1, 3)),
    "registered": (registered, lambda: None),
    "expanded": (constant, lambda: zeros(1).add(0.7).expand(3)),
}


def learned_by_hand(net, task, steps):
    """The outer loss where plain descent leads, with nothing put back on the way."""
    net = copy.deepcopy(net)
    descent = torch.optim.SGD(net.fast.parameters(), lr=0.02)
    for _ in range(steps):
        descent.zero_grad()
        (squares(net, task.train) + net.pull()).backward()
        descent.step()
    return squares(net.eval(), task.test).item()


@pytest.mark.parametrize("kind", KINDS)
def test_buffers_are_put_back(kind):
    see, kept = KINDS[kind]
    torch.manual_seed(0)
    net, task = mct.Synapse(WithBuffer(see, kept()), lam=0.3), regression_task()
    problem = mct.Problem(
        net,
        lambda n, t: squares(n, t.train) + n.pull(),
        lambda n, t: squares(n, t.test),
        ["omega.*", "log_lam.*"],
        mct.Synapse.reset,
    )
    held, data = net.fast.kept, copy.deepcopy(task)
    before = None if held is None else held.clone()
    expected = learned_by_hand(net, task, 20)
    solver, values, grads = mct.descend(partial(torch.optim.SGD, lr=0.02), 20), [], []
    for _ in range(2):
        for p in problem.slow.values():
            p.grad = None
        rule = mc.Contrastive(0.01, "symmetric")
        values.append(mct.backward(problem, solver, rule, [task]).value)
        grads.append(torch.cat([p.grad.ravel() for p in problem.slow.values()]))
        assert net.fast.kept is held and (held is None or torch.equal(held, before))
        assert set(dict(net.named_buffers())) == (set() if held is None else {"fast.kept"})
    assert values == pytest.approx([expected] * 2, rel=1e-12)
    assert torch.equal(*grads)
    for mine, given in zip((*task.train, *task.test), (*data.train, *data.test), strict=True):
        assert torch.equal(mine, given)


def test_every_phase_begins_with_the_buffers_of_the_one_before():
    seen = []

    def noting(m, x):
        seen.append(m.kept.item())
        m.kept = m.kept + 1
        return x

    torch.manual_seed(0)
    net = WithBuffer(noting, torch.zeros(()))
    problem = mct.Problem(
        net,
        lambda n, t: squares(n, t.train) + (net.layer.weight * net.layer.bias).sum() ** 2,
        lambda n, t: (net.layer.weight**2).sum() + (net.layer.bias**2).sum(),
        ["layer.bias"],
    )
    steps, starts = [], []

    def solver(loss, params):
        begins = len(seen)
        mct.descend(partial(torch.optim.SGD, lr=1e-3), 5)(loss, params)
        steps.append(seen[begins:])
        starts.append(net.kept.item())

    mct.backward(problem, solver, mc.Contrastive(0.1, "symmetric"), regression_task())
    assert steps == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9]]
    assert net.kept.item() == 0


def test_a_buffer_that_two_parts_share_is_shared_again():
    one = WithBuffer(written, zeros(3))
    two = WithBuffer(written, one.kept)
    net = torch.nn.Sequential(torch.nn.Linear(3, 3, dtype=torch.float64), one)
    net.two = two
    problem = mct.Problem(
        net,
        lambda n, t: squares(n[:2], t.train) + squares(two, t.train),
        lambda n, t: squares(n[:2], t.test),
        ["0.*"],
    )
    solver = mct.descend(partial(torch.optim.SGD, lr=1e-3), 3)
    with mct.solve_inner(problem, solver, regression_task()):
        assert two.kept is one.kept and two.kept.abs().max() > 0
    assert two.kept is one.kept and not two.kept.any()
