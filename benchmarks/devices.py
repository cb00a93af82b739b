"""What more devices are worth: meta-steps of the sine experiment on N virtual CPU devices and on 1.

    python benchmarks/devices.py [--method cml-gd] [--devices 2] [--rounds 15] [--out FILE]

Two processes, one with N devices and one with a single one, take turns: each takes a block of
meta-steps while the other waits, so that both see the same load of the machine. The figure is the
ratio of the two times of a round, its median and quartiles over the rounds. Compilation is left
out. The same ratio by CPU time, N seconds of which pass at a time, is what a machine without other
load could reach if the devices never waited for each other. Then, compiled only: the bytes that one
device needs for a meta-step of one task whose network has a million weights, whole and split over
N devices. Prints JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path


def serve(method, devices, steps):
    """At each line on stdin, take the meta-steps; print the seconds and the CPU seconds of them."""
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
    servers = [
        subprocess.Popen(
            [*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in (1, devices)
    ]
    try:
        for server in servers:
            turn(server)  # warm
        pairs = [[turn(server) for server in servers] for _ in range(rounds)]
    finally:
        for server in servers:
            server.stdin.close()
            server.wait()
    return {
        "method": method,
        "devices": devices,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "meta_steps_a_round": steps,
        "speed_up": spread([one[0] / many[0] for one, many in pairs]),
        "speed_up_by_cpu_time": spread([one[1] / (many[1] / devices) for one, many in pairs]),
        "seconds_a_meta_step": [spread([pair[i][0] / steps for pair in pairs]) for i in (0, 1)],
        "cpu_seconds_a_meta_step": [spread([pair[i][1] / steps for pair in pairs]) for i in (0, 1)],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="cml-gd")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="meta-steps in a block")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.method, given.serve, given.steps)
    found = measured(given.method, given.devices, given.rounds, given.steps)
    found["bytes_a_device"] = bytes_a_device(given.devices)
    text = json.dumps(found, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
