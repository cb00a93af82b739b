"""What more devices are worth: meta-steps of the sine experiment on N virtual CPU devices and on 1.

    python benchmarks/devices.py [--method cml-gd] [--devices 2] [--rounds 15] [--out FILE]

Two processes, one with N devices and one with a single one, take turns: each takes a block of
meta-steps while the other waits, so that both see the same load of the machine. The figure is the
ratio of the two times of a round, its median and quartiles over the rounds. Compilation is left
out. Prints JSON, with the CPU seconds of each too: of work that is divided perfectly, N devices
need as many as one does, N at a time.
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
    text = json.dumps(measured(given.method, given.devices, given.rounds, given.steps), indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
