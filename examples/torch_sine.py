"""Few-shot sine regression in plain PyTorch: omega and lambda of every weight are meta-learned.

    python examples/torch_sine.py --seed 0

Tasks, network and settings are those of `python experiments/sine.py --method cml-gd`, but for fewer
tasks and meta-steps, and a constant inner learning rate: PyTorch learns one task after another.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import partial

import torch
from torch import nn

import metacontrast as mc
import metacontrast.torch as mct

TEST_SEED = 2**31 - 1
META_STEPS, TASKS = 300, 10


def sine(draw: torch.Generator, shots: int = 10, queries: int = 10) -> mc.Task:
    """`y = A sin(x + p)` with A of U[0.1, 5], p of U[0, pi] and x of U[-5, 5]."""
    a, p, *x = torch.rand(2 + shots + queries, generator=draw)
    x = torch.stack(x)[:, None] * 10 - 5
    y = (0.1 + 4.9 * a) * torch.sin(x + math.pi * p)
    return mc.Task(mc.Data(x[:shots], y[:shots]), mc.Data(x[shots:], y[shots:]))


def squares(net: nn.Module, data: mc.Data) -> torch.Tensor:
    """The summed squared error."""
    return ((net(data.x) - data.y) ** 2).sum()


def problem() -> mct.Problem:
    """A network 1-40-40-1 of complex synapses."""
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    return mct.Problem(
        mct.Synapse(net, lam=5.0),
        inner=lambda net, task: squares(net, task.train) + net.pull(),
        outer=lambda net, task: squares(net, task.test),
        meta=["omega.*", "log_lam.*"],
        init=mct.Synapse.reset,
    )


SGD = partial(torch.optim.SGD, lr=1e-3, momentum=0.9, nesterov=True)
SOLVER, NUDGED = mct.descend(SGD, steps=100), mct.descend(SGD, steps=50)
RULE = mc.Contrastive(beta=0.05, scheme="symmetric")


def meta_train(sines: mct.Problem, seed: int, steps: int, tasks: int) -> float:
    """Seconds that it took."""
    draw = torch.Generator().manual_seed(seed)
    slow = list(sines.slow.values())
    outer = torch.optim.Adam(slow, lr=2e-2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(outer, steps, eta_min=4e-4)
    began = time.perf_counter()
    for t in range(steps):
        outer.zero_grad()
        step = mct.backward(sines, SOLVER, RULE, [sine(draw) for _ in range(tasks)], NUDGED)
        nn.utils.clip_grad_norm_(slow, 10.0)
        outer.step()
        cosine.step()
        if t % 10 == 0:
            print(f"{t}: outer loss {step.value:.3f}, diverged {len(step.failed)}", flush=True)
    return time.perf_counter() - began


def errors(sines: mct.Problem, seed: int, tasks: int) -> torch.Tensor:
    """Mean squared errors on tasks of 100 query points each."""
    draw = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(tasks):
        task = sine(draw, queries=100)
        with mct.solve_inner(sines, SOLVER, task) as net, torch.no_grad():
            losses.append(squares(net, task.test) / 100)
    return torch.stack(losses)


def main() -> None:
    """Meta-train, then look at the test tasks once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=META_STEPS)
    parser.add_argument("--tasks", type=int, default=TASKS, help="tasks a meta-step")
    parser.add_argument("--test-tasks", type=int, default=1000)
    settings = parser.parse_args()
    torch.manual_seed(settings.seed)
    sines = problem()
    seconds = meta_train(sines, settings.seed, settings.steps, settings.tasks)
    tested = errors(sines, TEST_SEED, settings.test_tasks)
    result = {"mse": tested.mean().item(), "std": tested.std().item()}
    result |= {
        "ci95": 1.96 * result["std"] / math.sqrt(len(tested)),
        "s a meta-step": seconds / settings.steps,
    }
    print(json.dumps(vars(settings) | result))


if __name__ == "__main__":
    main()
