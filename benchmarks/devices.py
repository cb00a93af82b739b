"""What more devices are worth: meta-steps of the sine experiment on N virtual CPU devices and on 1.

    python benchmarks/devices.py [--method cml-gd] [--devices 2] [--rounds 15] [--out FILE]

Three processes, with one device on one core, with one device on all cores (XLA runs phases side by
side where it can), and with N devices on all cores, take turns: each takes a block of meta-steps
while the others wait, so that all see the same load of the machine. A figure is the ratio of two
times of a round, its median and quartiles over the rounds; compilation is left out. Then, compiled
only: the bytes that one device needs for a meta-step of one task whose network has a million
weights, whole and split over N devices. Prints JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path


def serve(method, devices, cores, steps):
    """At each line on stdin, take the meta-steps; print the seconds and the CPU seconds of them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    from metacontrast.experiments import sine
    from metacontrast.train import use_devices
    from metacontrast.train._mesh import placed
    from metacontrast.train._meta_step import start, stepper

    mesh = use_devices(devices)
    made = sine.METHODS[method]
    s = made.settings
    draw = partial(sine.sine, shots=s.shots, queries=s.queries)
    rule = sine.outer_optimizer(s.outer_rate, s.steps, s.last_rate)
    mesh = mesh if devices > 1 else None  # as without the option
    advance = stepper(
        made.problem, made.solve, made.estimator, draw, rule, s.tasks, 0, None, mesh=mesh
    )
    state = start(sine.first_theta(0, s.first_lambda, made.fast), rule, averaged=False)
    state, _ = advance(placed(state, mesh), 0, steps)
    for t, _ in enumerate(iter(sys.stdin.readline, "")):
        began, cpu = time.perf_counter(), time.process_time()
        state, _ = advance(state, (t + 1) * steps, steps)
        print(time.perf_counter() - began, time.process_time() - cpu, flush=True)


def bytes_a_device(devices):
    """Of what is handed over, what comes back and what lies in between."""
    import jax
    import optax

    import metacontrast as mc
    from metacontrast.nets import mlp
    from metacontrast.train import device_mesh, use_devices
    from metacontrast.train._mesh import constrained, placed, split_phi

    use_devices(devices)
    net = mlp(8, 1000, 2, 8)
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: (
            jax.numpy.sum((jax.vmap(net.apply, (None, 0))(phi, task)) ** 2)
            + 1e-3 * optax.tree.norm(optax.tree.sub(phi, theta), squared=True)
        ),
        outer=lambda phi, theta, task: optax.tree.norm(phi, squared=True),
    )
    solve, rule = mc.descend(optax.adam(1e-3), 10), mc.Contrastive(0.1)
    task = jax.random.normal(jax.random.key(0), (16, 8))

    def needed(mesh):
        def grad(theta):
            found = rule.value_and_grad(split_phi(problem, mesh), solve, theta, task)[1]
            return constrained(found, mesh)

        theta = placed(net.init(jax.random.key(0)), mesh)
        m = jax.jit(grad).lower(theta).compile().memory_analysis()
        return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes

    return {"whole": needed(device_mesh(1, 1)), "split": needed(device_mesh(1, devices))}


def turn(server):
    server.stdin.write("go\n")
    server.stdin.flush()
    return [float(x) for x in server.stdout.readline().split()]


def spread(values):
    import numpy as np

    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": middle, "quartiles": [low, high], "all": list(values)}


def measured(method, devices, rounds, steps):
    command = [sys.executable, __file__, "--method", method, "--steps", str(steps), "--serve"]
    cores = len(os.sched_getaffinity(0))
    servers = [
        subprocess.Popen(
            [*command, *map(str, sizes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for sizes in ((1, 1), (1, cores), (devices, cores))
    ]
    try:
        for server in servers:
            turn(server)  # warm
        taken = [[turn(server) for server in servers] for _ in range(rounds)]
    finally:
        for server in servers:
            server.stdin.close()
            server.wait()
    return {
        "method": method,
        "devices": devices,
        "cores": cores,
        "load": os.getloadavg(),
        "meta_steps_a_round": steps,
        "speed_up_over_one_core": spread([one[0] / many[0] for one, _, many in taken]),
        "speed_up_over_one_device": spread([one[0] / many[0] for _, one, many in taken]),
        "seconds_a_meta_step": [spread([row[i][0] / steps for row in taken]) for i in range(3)],
        "cpu_seconds_a_meta_step": [spread([row[i][1] / steps for row in taken]) for i in range(3)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="cml-gd")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="meta-steps in a block")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.method, *given.serve, given.steps)
    found = measured(given.method, given.devices, given.rounds, given.steps)
    found["bytes_a_device"] = bytes_a_device(given.devices)
    text = json.dumps(found, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
