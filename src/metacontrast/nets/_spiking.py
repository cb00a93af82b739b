"""A recurrent network of spiking neurons, and the derivative that its spikes are lent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from .._must import BelowOne, Count, Positive
from .._precision import matmul
from .._types import Key

Surrogate: TypeAlias = Callable[[jax.Array], jax.Array]
Pair: TypeAlias = tuple[jax.Array, jax.Array]  # membrane potentials and spikes
_DECAY = math.exp(-1 / 30.0)  # of a time constant of 30 steps of 1 ms, as in the paper


class Weights(NamedTuple):
    """The fast weights: (neurons, inputs), (neurons, neurons) and (outputs, neurons)."""

    inputs: jax.Array
    recurrent: jax.Array
    readout: jax.Array


class Response(NamedTuple):
    """The `readout` (..., T, outputs) at each step, and the firing `rate` (..., neurons)."""

    readout: jax.Array
    rate: jax.Array


def triangle(u: jax.Array) -> jax.Array:
    """The surrogate of e-prop, `dz/dv = 0.3 max(0, 1 - |u|)`, where `u = (v - v_th) / v_th`."""
    return 0.3 * jnp.maximum(0.0, 1.0 - jnp.abs(u))


def fast_sigmoid(u: jax.Array) -> jax.Array:
    """A surrogate with long tails, `dz/dv = 1 / (10 |u| + 1)^2`, where `u = (v - v_th) / v_th`.

    Reference: Zenke, Ganguli, "SuperSpike", 2018.
    """
    return 1.0 / (10.0 * jnp.abs(u) + 1.0) ** 2


@dataclass(frozen=True)
class Spiking:
    """Leaky integrate-and-fire neurons, recurrently connected, with a leaky linear readout.

        v_t = alpha v_(t-1) + W_in x_t + W_rec z_(t-1) - v_th z_(t-1),   z_t = [v_t > v_th],
        o_t = kappa o_(t-1) + W_out z_t.

    The derivative of a spike by its membrane potential is the surrogate; the reset `- v_th z` is
    taken as given. All start at rest, at 0.

    Args:
        inputs: number of input neurons.
        neurons: number of recurrent neurons.
        outputs: number of readouts.
        surrogate: `(v - v_th) / v_th -> dz/dv`.
        alpha: what remains of a membrane potential after one step. Default: exp(-1/30).
        kappa: the same of a readout. Default: exp(-1/30).
        threshold: v_th, positive.
        gains: factors of the normal weights of standard deviation sqrt(2 / fan-in) that `init`
            draws, of W_in, W_rec and W_out.

    Raises:
        ValueError: alpha or kappa not in [0, 1), threshold not positive.

    Reference: Bellec et al., "A solution to the learning dilemma for recurrent networks of spiking
    neurons", 2020; with the settings of Zucchet et al., 2022.

    Example:
        >>> net = Spiking(inputs=5, neurons=4, outputs=1)
        >>> phi = net.init(jax.random.key(0))
        >>> response = net.apply(phi, jnp.ones((20, 5)))
        >>> response.readout.shape, response.rate.shape
        ((20, 1), (4,))
    """

    inputs: Count
    neurons: Count
    outputs: Count
    surrogate: Surrogate = triangle
    alpha: BelowOne = _DECAY
    kappa: BelowOne = _DECAY
    threshold: Positive = 0.1
    gains: tuple[float, float, float] = (0.1, 0.01, 0.1)

    def init(self, key: Key) -> Weights:
        """Normal weights, of standard deviation `gain sqrt(2 / fan-in)`."""
        n = self.neurons
        shapes = ((n, self.inputs), (n, n), (self.outputs, n))
        keys = jax.random.split(key, 3)
        return Weights(
            *(
                gain * math.sqrt(2 / shape[1]) * jax.random.normal(k, shape)
                for gain, shape, k in zip(self.gains, shapes, keys, strict=True)
            )
        )

    def apply(self, phi: Weights, x: jax.Array) -> Response:
        """The response to input spikes x (..., T, inputs), one example or a batch of them."""
        return self.respond(phi, self.run(phi, x)[1])

    def respond(self, phi: Weights, z: jax.Array) -> Response:
        """The response that spikes z (..., T, neurons) make."""
        return Response(low_pass(self.kappa, matmul(z, phi.readout.T)), jnp.mean(z, -2))

    def run(self, phi: Weights, x: jax.Array) -> Pair:
        """Membrane potentials v and spikes z, both (..., T, neurons)."""
        if x.ndim < 2 or x.shape[-1] != self.inputs:
            raise ValueError(
                f"x: must be spikes of shape (..., T, {self.inputs}), not {x.shape}; encode "
                "numbers by tasks.population."
            )

        def step(carry: Pair, current: jax.Array) -> tuple[Pair, Pair]:
            v = self.integrate(*carry, current, phi.recurrent)
            z = self.fire(v)
            return (v, z), (v, z)

        currents = jnp.moveaxis(matmul(x, phi.inputs.T), -2, 0)
        rest = jnp.zeros_like(currents[0])
        v, z = jax.lax.scan(step, (rest, rest), currents)[1]
        return jnp.moveaxis(v, 0, -2), jnp.moveaxis(z, 0, -2)

    def integrate(
        self, v: jax.Array, z: jax.Array, current: jax.Array, recurrent: jax.Array
    ) -> jax.Array:
        """The next membrane potentials, from the last ones and the last spikes."""
        reset = self.threshold * jax.lax.stop_gradient(z)
        return self.alpha * v + current + matmul(z, recurrent.T) - reset

    def fire(self, v: jax.Array) -> jax.Array:
        """The spikes, 0 or 1, whose derivative by v is `psi`."""
        return _spike(self.psi, v - self.threshold)

    def psi(self, above: jax.Array) -> jax.Array:
        """What stands for dz/dv at `above = v - v_th`."""
        return self.surrogate(above / self.threshold)


def low_pass(decay: float, x: jax.Array) -> jax.Array:
    """`y_t = decay y_(t-1) + x_t` along the last axis but one, from rest."""
    return matmul(_decays(decay, x), x)


def low_pass_back(decay: float, x: jax.Array) -> jax.Array:
    """Its transpose, `y_t = decay y_(t+1) + x_t`."""
    return matmul(_decays(decay, x).T, x)


def _decays(decay: float, x: jax.Array) -> jax.Array:
    t = jnp.arange(x.shape[-2], dtype=x.dtype)
    # The powers of the upper half are cut off before they are taken: they may overflow.
    return jnp.tril(decay ** jnp.maximum(t[:, None] - t[None], 0))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _spike(psi: Surrogate, above: jax.Array) -> jax.Array:
    return (above > 0).astype(above.dtype)


@_spike.defjvp
def _spike_jvp(
    psi: Surrogate, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return _spike(psi, *primals), psi(primals[0]) * tangents[0]
