"""PyTorch: a DataLoader's batches are drawn once for a task, and the same ones in each phase."""

import weakref
from functools import partial

import numpy as np
import pytest

import metacontrast as mc

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402
from torch_problems import (  # noqa: E402
    exact_gradients,
    gradients,
    misfit,
    noting,
    one_newton_step,
    regression,
    regression_task,
)

# A few mini-batches do not converge.
pytestmark = pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
RULE = mc.Contrastive(0.01, "symmetric")
SGD = partial(torch.optim.SGD, lr=5e-3)


def loader(data, size=2, **settings):
    return DataLoader(TensorDataset(*data), batch_size=size, shuffle=True, **settings)


def rows(batch):
    return batch[0][:, 0].tolist()


def streamed(log, batches=None, **changes):
    """The regression from `next` of its training data, which notes what it saw."""

    def inner(m, task):
        x, y = next(task.train if batches is None else batches)
        log.append(rows((x, y)))
        return misfit(m.phi, mc.Data(x, y)) + m.pull()

    return regression(inner=inner, **changes)


def test_batches_of_everything_give_the_closed_form():
    whole = regression_task()
    task = mc.Task(*(mct.Batches(loader(half, size=10)) for half in whole))
    problem = regression(
        inner=lambda m, t: misfit(m.phi, mc.Data(*next(t.train))) + m.pull(),
        outer=lambda m, t: sum(misfit(m.phi, mc.Data(*batch)) for batch in t.test),
    )
    rule = mc.Contrastive(0.003, "symmetric", 4)
    exact = exact_gradients(problem, whole)
    # The scheme errs by beta^4 times the ratio of curvatures, about 10, to the fifth.
    grads = gradients(problem, one_newton_step, rule, task)
    np.testing.assert_allclose(grads, exact, atol=1e-5 * np.abs(exact).max())
    in_parts = mc.Task(task.train, mct.Batches(loader(whole.test, size=2)))
    grads = gradients(problem, one_newton_step, rule, in_parts)  # the sum over an epoch
    np.testing.assert_allclose(grads, exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("where", ["in the task", "closed over"])
@pytest.mark.parametrize("longer", ["free", "nudged"])
def test_every_phase_sees_the_same_batches(where, longer):
    log, data = [], regression_task()
    batches = mct.Batches(loader(data.train))
    problem = streamed(log, batches if where == "closed over" else None)
    task = mc.Task(batches, data.test)
    lengths = (12, 7) if longer == "free" else (7, 12)
    solver, free = noting(log, mct.descend(SGD, lengths[0]))
    nudged, others = noting(log, mct.descend(SGD, lengths[1]))
    torch.manual_seed(0)
    mct.backward(problem, solver, RULE, [task, task], nudged)
    assert [len(phase) for phase in (*free, *others)] == [*[lengths[0]] * 2, *[lengths[1]] * 4]
    for i in range(2):
        assert others[2 * i] == others[2 * i + 1]
        assert others[2 * i][:7] == free[i][:7]
    # Two batches are an epoch, each of which is shuffled anew; each task draws its own.
    everyone = sorted(rows(data.train))
    epochs = [phase[i] + phase[i + 1] for phase in free for i in range(0, 6, 2)]
    assert all(sorted(epoch) == everyone for epoch in epochs)
    assert len(set(map(str, epochs))) > 2 and free[0] != free[1]


def test_a_call_with_the_same_seed_is_the_same_and_the_next_one_another():
    data, values = regression_task(), []
    task = mc.Task(mct.Batches(loader(data.train)), data.test)
    problem, solver = streamed([]), mct.descend(SGD, 9)
    for reseed in (True, True, False, False):
        if reseed:
            torch.manual_seed(0)
        values.append(mct.backward(problem, solver, RULE, task).value)
    assert values[0] == values[1] and len(set(values)) == 3


def test_batches_change_no_random_number_of_the_losses():
    """Nor do workers, transforms and samplers, which draw in `Batches` alone."""
    data = regression_task()

    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return data.train.x[i] + 0.1 * np.random.normal() + 0.1 * torch.rand(3), data.train.y[i]

    def learn(batches):
        log, masks = [], []

        def inner(m, task):
            masks.append(torch.rand(2).tolist())
            x, y = next(batches) if batches is not None else data.train
            log.append(rows((x, y)))
            return misfit(m.phi * masks[-1][0], mc.Data(x, y)) + m.pull()

        solver, phases = noting(masks, mct.descend(SGD, 5))
        torch.manual_seed(0)
        mct.backward(regression(inner=inner), solver, RULE, data)
        return phases, log

    plain, _ = learn(None)
    batched, log = learn(mct.Batches(DataLoader(Noisy(), batch_size=2, shuffle=True)))
    assert batched == plain and plain[0] == plain[1] == plain[2]
    assert log[-8] == log[0]
    assert len({str(seen) for seen in log}) == 8


def test_the_outer_loss_sees_one_batch_and_shares_a_loader_with_the_inner_one():
    log, data = [], regression_task()
    judged = []

    def outer(m, task):
        x, y = next(task.train)
        judged.append(rows((x, y)))
        return misfit(m.phi, mc.Data(x, y))

    solver, phases = noting(log, mct.descend(SGD, 6))
    task = mc.Task(mct.Batches(loader(data.train, size=1)), mct.Batches(loader(data.test, size=1)))
    mct.backward(streamed(log, outer=outer), solver, RULE, task)
    assert phases[0] == phases[1] == phases[2]  # though the nudged ones took batches of outer too
    log.clear()
    judged.clear()

    def apart(m, task):
        x, y = next(task.test)
        judged.append(rows((x, y)))
        return misfit(m.phi, mc.Data(x, y))

    mct.backward(streamed(log, outer=apart), solver, RULE, task)
    assert len(judged) > 12 and len({str(seen) for seen in judged}) == 1


def test_a_loader_that_is_not_wrapped_is_told_how():
    data = regression_task()
    task = mc.Task(loader(data.train), data.test)
    with pytest.raises(TypeError, match=r"^inner: .*not an iterator.*Batches\(loader\)"):
        mct.backward(streamed([]), mct.descend(SGD, 1), RULE, task)


def test_a_loss_may_change_its_batch():
    data = regression_task()
    seen = []

    def inner(m, task):
        x, y = next(task.train)
        seen.append(x.clone())
        x.mul_(0.5)
        return misfit(m.phi, mc.Data(x, y)) + m.pull()

    task = mc.Task(mct.Batches(loader(data.train, size=4)), data.test)
    mct.backward(regression(inner=inner), mct.descend(SGD, 1), RULE, task)
    assert all(sorted(rows((x,))) == sorted(rows(data.train)) for x in seen)
    assert len(seen) > 10


def test_no_batch_outlives_its_task():
    kept, data = [], regression_task()

    class Batch(dict):
        pass

    def collate(items):
        batch = Batch(x=torch.stack([x for x, _ in items]), y=torch.stack([y for _, y in items]))
        kept.append(weakref.ref(batch))
        return batch

    inner = lambda m, task: misfit(m.phi, mc.Data(*next(task.train).values())) + m.pull()
    task = mc.Task(mct.Batches(loader(data.train, collate_fn=collate)), data.test)
    mct.backward(regression(inner=inner), mct.descend(SGD, 9), RULE, task)
    # The nine of the free phase, and none again in the nudged ones.
    assert len(kept) == 9 and all(batch() is None for batch in kept)


def test_outside_of_a_call_they_are_the_loaders():
    data = regression_task()
    batches = mct.Batches(loader(data.train))
    assert len(batches) == 2
    everyone = sorted(rows(data.train))
    assert sorted(row for batch in batches for row in rows(batch)) == everyone
    for _ in range(2):
        assert sorted(rows(next(batches)) + rows(next(batches))) == everyone
    log = []
    task = mc.Task(batches, data.test)
    with mct.solve_inner(streamed(log), mct.descend(SGD, 3), task):
        assert rows(next(task.train)) == log[0]  # from the beginning


# What is refused.


@pytest.mark.parametrize("kind", ["iterator", "of one batch", "cycle", "list"])
def test_an_iterator_is_refused_before_anything_is_learned(kind):
    data = regression_task()
    source = {
        "iterator": lambda: iter(loader(data.train)),
        "of one batch": lambda: iter(loader(data.train, size=4)),
        "cycle": lambda: (batch for _ in range(99) for batch in loader(data.train)),
        "list": lambda: iter(list(loader(data.train))),
    }[kind]()
    untouched = lambda loss, params: pytest.fail("nothing may be learned before it is checked")
    with pytest.raises(ValueError, match=r"inner: .*Batches\(loader\)"):
        mct.backward(streamed([], source), untouched, RULE, data)


def test_a_loader_that_the_loss_goes_through_itself_is_replayed():
    """Its order is drawn from the default generators."""
    log, data = [], regression_task()

    def inner(m, task):
        batch = next(iter(task.train))
        log.append(rows(batch))
        return misfit(m.phi, mc.Data(*batch)) + m.pull()

    solver, phases = noting(log, mct.descend(SGD, 6))
    mct.backward(
        regression(inner=inner), solver, RULE, [mc.Task(loader(data.train, size=1), data.test)]
    )
    assert phases[0] == phases[1] == phases[2] and len({str(seen) for seen in phases[0]}) > 1


def test_loaders_that_are_none():
    data = regression_task()
    for none in (iter(loader(data.train)), (x for x in [1]), 3, mct.Batches([1])):
        with pytest.raises(TypeError, match=r"loader: must be something to go through"):
            mct.Batches(none)
    empty = mct.Batches(loader(data.train, size=10, drop_last=True))
    with pytest.raises(ValueError, match=r"loader: has no batches.*drop_last"):
        next(empty)
    with pytest.raises(ValueError, match=r"loader: has no batches"):
        mct.backward(streamed([], empty), mct.descend(SGD, 1), RULE, data)


def test_linear_residual_is_of_the_mean_over_batches():
    """To which the learner converges; on the first batch alone it is 0.75, a false alarm."""
    data = regression_task()
    batches = mct.Batches(loader(data.train))  # two an epoch, whose mean is the loss of all
    problem = regression(inner=lambda m, t: 2 * misfit(m.phi, mc.Data(*next(batches))) + m.pull())
    torch.manual_seed(0)
    rule = mc.Contrastive(1e-3, "symmetric")
    step = mct.backward(problem, mct.descend(SGD, 300), rule, data)
    exact = torch.tensor(exact_gradients(problem, data))
    error = torch.cat([p.grad for p in problem.slow.values()]) - exact
    assert error.norm() < 0.1 * exact.norm()
    assert step.aux[0]["linear_residual"] < 0.1 and step.flagged == {}
