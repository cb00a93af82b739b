"""What more devices are worth: meta-steps on sines on N virtual CPU devices and on 1.

    python benchmarks/devices.py [--devices 2] [--rounds 15] [--steps 10] [--out FILE]

Three processes, with one device on one core, with one device on all cores (XLA runs phases side by
side where it can), and with N devices on all cores, take turns: each takes a block of meta-steps
(`cml-gd` of the experiment `sine`, 25 tasks) while the others wait, so that all see the same load
of the machine. Reported is the ratio of two times of a round, its median and quartiles over the
rounds; compilation is left out. Then, compiled only: the bytes that one device needs for a
meta-step of one task whose network has a million weights, whole and split over N devices. Prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a file that is run by its path
Server = subprocess.Popen[str]


def serve(devices: int, cores: int, steps: int) -> None:
    """At each line on stdin, take the meta-steps; print the seconds and the CPU seconds of them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    import jax
    import optax

    import metacontrast as mc
    from benchmarks._learners import sine_learner
    from metacontrast.tasks import sine
    from metacontrast.train import use_devices
    from metacontrast.train._layout import Layout
    from metacontrast.train._loop import first_snapshot
    from metacontrast.train._meta_step import MetaStep, compile_dispatch

    mesh = use_devices(devices)
    layout = Layout(mesh if devices > 1 else None)  # None: as without the option
    learner = sine_learner()
    rule = mc.Contrastive(learner.beta, "symmetric", nudged=learner.nudged)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(2e-2))
    run = MetaStep(
        learner.problem, learner.free, rule, sine, optimizer, tasks=25, seed=0, layout=layout
    )
    dispatch = compile_dispatch(run)
    state = first_snapshot(run, learner.theta).on_devices(layout).state
    state, _ = jax.block_until_ready(dispatch(state, 0, steps))
    for t, _ in enumerate(iter(sys.stdin.readline, "")):
        began, cpu = time.perf_counter(), time.process_time()
        state, _ = jax.block_until_ready(dispatch(state, (t + 1) * steps, steps))
        print(time.perf_counter() - began, time.process_time() - cpu, flush=True)


def bytes_a_device(devices: int) -> dict[str, int]:
    """Of what is handed over, what comes back and what lies in between."""
    import jax
    import jax.numpy as jnp
    import optax

    import metacontrast as mc
    from metacontrast.nets import mlp
    from metacontrast.train import device_mesh, use_devices
    from metacontrast.train._layout import Layout

    use_devices(devices)
    net = mlp(8, 1000, 2, 8)
    problem = mc.Problem(
        init=lambda omega, x: omega,
        inner=lambda phi, omega, x: (
            jnp.sum((jax.vmap(net.apply, (None, 0))(phi, x)) ** 2)
            + mc.Synapse(omega, jnp.log(1e-3)).pull(phi)
        ),
        outer=lambda phi, omega, x: optax.tree.norm(phi, squared=True),
    )
    solver, rule = mc.descend(optax.adam(1e-3), 10), mc.Contrastive(0.1)
    x = jax.random.normal(jax.random.key(0), (16, 8))

    def needed(layout: Layout) -> int:
        gradient = mc.meta_gradient(layout.shard_phi(problem), solver, rule, by_z=False)
        program = jax.jit(lambda omega: layout.shard_parameters(gradient(omega, x).by_theta))
        omega = layout.put_parameters(net.init(jax.random.key(0)))
        m: Any = program.lower(omega).compile().memory_analysis()
        return int(m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes)

    meshes = {"whole": device_mesh(1, 1), "split": device_mesh(1, devices)}
    return {name: needed(Layout(mesh)) for name, mesh in meshes.items()}


def take_turn(server: Server) -> list[float]:
    """One block of meta-steps: seconds, and CPU seconds."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write("go\n")
    server.stdin.flush()
    return [float(x) for x in server.stdout.readline().split()]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles, and all."""
    import numpy as np

    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": middle, "quartiles": [low, high], "all": list(values)}


def compare_devices(devices: int, rounds: int, steps: int) -> dict[str, Any]:
    """The three processes, in turns."""
    command = [sys.executable, __file__, "--steps", str(steps), "--serve"]
    cores = len(os.sched_getaffinity(0))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    servers: list[Server] = [
        subprocess.Popen([*command, *map(str, sizes)], **pipes)
        for sizes in ((1, 1), (1, cores), (devices, cores))
    ]
    try:
        for server in servers:
            take_turn(server)  # compiled and warm from here on
        turns = [[take_turn(server) for server in servers] for _ in range(rounds)]
    finally:
        for server in servers:
            server.communicate()  # whose stdin then ends
    return {
        "devices": devices,
        "cores": cores,
        "load": os.getloadavg(),
        "meta_steps_a_round": steps,
        "speed_up_over_one_core": spread([one[0] / many[0] for one, _, many in turns]),
        "speed_up_over_one_device": spread([one[0] / many[0] for _, one, many in turns]),
        "seconds_a_meta_step": [spread([row[i][0] / steps for row in turns]) for i in range(3)],
        "cpu_seconds_a_meta_step": [spread([row[i][1] / steps for row in turns]) for i in range(3)],
    }


def main() -> None:
    """Print, and write if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="meta-steps in a block")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        devices, cores = options.serve
        serve(devices, cores, options.steps)
        return
    result = compare_devices(options.devices, options.rounds, options.steps)
    result["bytes_a_device"] = bytes_a_device(options.devices)
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
