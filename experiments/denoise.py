"""A regulariser for noisy photographs, learned through the minimiser that it regularises.

    python experiments/denoise.py --method filters --seed 0
    metacontrast report runs/denoise

Noise of 25 grey levels is taken off by minimising an energy,

    E(x) = 1/2 |x - y|^2 + sum_k lambda_k sum_p rho((f_k * x)_p),   rho(u) = sqrt(u^2 + e^2) - e,

whose strengths and filters are learned for the signal-to-noise ratio of its minimiser, `mc.argmin`;
as in bilevel learning of image models (Samuel and Tappen, 2009; Kunisch and Pock, 2013). rho is
convex, so that E curves by at least 1 in every direction: `|grad E(x)|` bounds how far x is from
the minimiser, and every test image comes with that certificate. The photographs are the two that
scikit-learn brings: one is learned from, its right quarter chooses theta, and the other is tested
on, once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm import trange

import metacontrast as mc
from metacontrast.nets import conv
from metacontrast.report import figure

SIDE, BORDER = 5, 2  # of a filter; what it reaches beyond the patch
EDGE = 0.01  # e of rho, in units of white
LOOK = 20  # meta-steps from one validation to the next


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on. `seed` chooses patches and noise."""

    patches: int = 8  # A meta-step.
    side: int = 32  # Of a patch, in pixels.
    noise: float = 25 / 255  # Standard deviation, in units of white.
    outer_rate: float = 0.02  # Of Adam on the logarithms of the strengths.
    filter_rate: float = 4e-4  # Of Adam on the filters, whose entries are of some 0.2.
    first_lambda: float = 0.03  # Of every filter.
    tol: float = 0.03  # |grad E| at which L-BFGS has converged; over sqrt(pixels), an error.
    free: int = 60  # Iterations of L-BFGS at most.
    nudged: int = 10  # Iterations of conjugate gradient, in first derivatives.
    valid_patches: int = 40  # Which choose theta.
    test_patches: int = 100  # On which it is judged, once.


METHODS = {
    "tv": Settings(method="tv", steps=100),
    "strengths": Settings(method="strengths", steps=200),
    "filters": Settings(method="filters", steps=400),
}
EXPERIMENT = frame.Experiment(
    "denoise",
    metric="peak signal-to-noise ratio in dB of denoised photographs",
    methods=METHODS,
    default="filters",
)


class Theta(NamedTuple):
    """The regulariser: logarithms of strengths, one of all filters or one each, and filters."""

    log_lam: Float[Array, "#k"]
    filters: Float[Array, "5 5 1 k"]


def photograph(part: str) -> jax.Array:
    """Grey, in units of white: China, but for its right quarter, which validates; or a flower."""
    from sklearn.datasets import load_sample_images

    china, flower = (
        np.asarray(image, np.float32).mean(-1) / 255 for image in load_sample_images().images
    )
    cut = china.shape[1] * 3 // 4
    parts = {"train": china[:, :cut], "valid": china[:, cut:], "test": flower}
    return jnp.asarray(parts[part])


def cosines() -> np.ndarray:
    """The basis of the discrete cosine transform but for the constant: 24 filters of length 1."""
    n = np.arange(SIDE)
    rows = np.cos(np.pi * (n[None] + 0.5) * n[:, None] / SIDE)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.einsum("ia,jb->abij", rows, rows).reshape(SIDE, SIDE, 1, -1)[..., 1:]


def differences() -> np.ndarray:
    """Of neighbours, across and down: total variation's."""
    f = np.zeros((SIDE, SIDE, 1, 2))
    f[BORDER, BORDER], f[BORDER, BORDER + 1, 0, 0], f[BORDER + 1, BORDER, 0, 1] = -1, 1, 1
    return f


def first_theta(s: Settings) -> Theta:
    """Equal strengths."""
    filters = jnp.asarray(differences() if s.method == "tv" else cosines(), jnp.float32)
    n = 1 if s.method == "tv" else filters.shape[-1]
    return Theta(jnp.full(n, jnp.log(s.first_lambda)), filters)


def energy(x: jax.Array, theta: Theta, noisy: jax.Array) -> jax.Array:
    """E(x); the patch is mirrored at its borders."""
    around = jnp.pad(x, BORDER, mode="reflect")[None, :, :, None]
    rho = jnp.sqrt(conv(around, theta.filters) ** 2 + EDGE**2) - EDGE
    return jnp.sum((x - noisy) ** 2) / 2 + jnp.sum(jnp.exp(theta.log_lam) * rho.sum((0, 1, 2)))


def denoiser(s: Settings) -> Any:
    """`(theta, noisy) -> argmin E`, with a gradient by contrasts of first derivatives."""
    return mc.argmin(
        energy,
        mc.lbfgs(s.tol, s.free),
        init=lambda theta, noisy: noisy,
        nudged=mc.secant_cg(s.nudged),
    )


def certificate(x: jax.Array, theta: Theta, noisy: jax.Array) -> jax.Array:
    """A bound on the root mean squared distance of x from the minimiser: `|grad E| / sqrt(n)`."""
    return jnp.linalg.norm(jax.grad(energy)(x, theta, noisy)) / jnp.sqrt(float(x.size))


def draw_patches(s: Settings, picture: jax.Array, n: int, key: jax.Array) -> mc.Data:
    """Patches at random places, `y`, and the same with noise, `x`."""
    places, noise = jax.random.split(key)
    last = jnp.array(picture.shape) - s.side
    corners = jax.random.randint(places, (n, 2), 0, last[None] + 1)
    cut = lambda corner: jax.lax.dynamic_slice(picture, corner, (s.side, s.side))
    y = jax.vmap(cut)(corners)
    return mc.Data(y + s.noise * jax.random.normal(noise, y.shape), y)


def tests_of(s: Settings, part: str = "test") -> mc.Data:
    """With noise of this seed too, on patches of the other photograph."""
    key = jax.random.fold_in(frame.held_out(part), s.seed)
    return draw_patches(s, photograph(part), s.test_patches, key)


def peak_ratio(errors: np.ndarray) -> np.ndarray:
    """Of root mean squared errors, in dB: `-20 log10`."""
    return -20 * np.log10(errors)


def root_mean_square(x: jax.Array) -> jax.Array:
    """Of each image."""
    return jnp.sqrt(jnp.mean(x**2, (1, 2)))


class Scores(NamedTuple):
    """Of each patch: root mean squared error, and the certificate."""

    error: np.ndarray
    bound: np.ndarray


def scorer(s: Settings) -> Any:
    """`scores(theta, patches)`."""
    denoise = denoiser(s)

    @jax.jit
    def score(theta: Theta, data: mc.Data) -> tuple[jax.Array, jax.Array]:
        x = jax.vmap(denoise, (None, 0))(theta, data.x)
        return root_mean_square(x - data.y), jax.vmap(certificate, (0, None, 0))(x, theta, data.x)

    return lambda theta, data: Scores(*map(np.asarray, score(theta, data)))


def meta_step(s: Settings, optimizer: optax.GradientTransformation, picture: jax.Array) -> Any:
    """`(theta, state, key) -> (theta, state, loss)`."""
    denoise = denoiser(s)

    def loss(theta: Theta, data: mc.Data) -> jax.Array:
        x = jax.vmap(denoise, (None, 0))(theta, data.x)
        # What is judged, with the sign of a loss: smooth patches count as much as textured ones.
        return jnp.mean(20 * jnp.log10(root_mean_square(x - data.y)))

    @jax.jit
    def step(theta: Theta, state: Any, key: jax.Array) -> tuple[Theta, Any, jax.Array]:
        value, grads = jax.value_and_grad(loss)(theta, draw_patches(s, picture, s.patches, key))
        updates, state = optimizer.update(grads, state)
        slower = s.filter_rate / s.outer_rate if s.method == "filters" else 0.0
        updates = updates._replace(filters=slower * updates.filters)
        return optax.apply_updates(theta, updates), state, value

    return step


def learn(s: Settings) -> tuple[Theta, list[dict[str, float]]]:
    """The theta that validation chose, and what was seen on the way."""
    optimizer = frame.outer_optimizer(s.outer_rate, s.steps)
    theta, key = first_theta(s), jax.random.key(s.seed)
    state, scores = optimizer.init(theta), scorer(s)
    step = meta_step(s, optimizer, photograph("train"))
    valid = draw_patches(s, photograph("valid"), s.valid_patches, frame.held_out("valid"))
    ratio = lambda theta: float(peak_ratio(scores(theta, valid).error).mean())
    best, lines = theta, [{"step": 0, "valid": ratio(theta)}]
    for t in trange(1, s.steps + 1, desc=s.method, disable=None):
        theta, state, _ = step(theta, state, jax.random.fold_in(key, t))
        if t % LOOK == 0 or t == s.steps:
            lines.append({"step": t, "valid": ratio(theta)})
            if lines[-1]["valid"] >= max(line["valid"] for line in lines):
                best = theta
    return best, lines


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: learn, test, write result.json and a figure."""
    folder, began = EXPERIMENT.claim(s), time.perf_counter()
    tests = frame.Tests(partial(tests_of, s))
    theta, lines = learn(s)
    seconds = time.perf_counter() - began
    tests.chosen(theta)
    patches = tests.open()
    found = scorer(s)(theta, patches)
    noisy = peak_ratio(np.asarray(root_mean_square(patches.x - patches.y)))
    figure(folder / "denoised", partial(draw, s, theta, patches), 2, 4)
    return EXPERIMENT.finish(
        s,
        peak_ratio(found.error),
        note=f"; {noisy.mean():.2f} before; at most {1e3 * found.bound.max():.2f}e-3 of white from "
        "the minimiser, certified",
        seconds=seconds,
        noisy=float(noisy.mean()),
        certified=float(found.bound.max()),
        validation=lines,
        strengths=np.exp(np.asarray(theta.log_lam)).tolist(),
        filters=np.asarray(theta.filters).tolist() if s.method == "filters" else None,
    )


def draw(s: Settings, theta: Theta, tests: mc.Data, axes: Any) -> None:
    """Two patches, with noise, without it, and as they are; and the filters by their strength."""
    x = jax.jit(jax.vmap(denoiser(s), (None, 0)))(theta, tests.x[:2])
    titles = ("with noise", "denoised", "as it is")
    for row, images in zip(axes, zip(tests.x, x, tests.y, strict=False), strict=True):
        for ax, image, title in zip(row, images, titles, strict=False):
            ax.imshow(image, cmap="gray", vmin=0, vmax=1)
            ax.set_title(title)
    weight = np.broadcast_to(np.exp(theta.log_lam), theta.filters.shape[-1:])
    order = np.argsort(-weight * np.sqrt(np.sum(np.square(theta.filters), (0, 1, 2))))
    for ax, chosen in zip(axes[:, 3], (order[:12], order[12:24]), strict=True):
        ax.imshow(_sheet(np.asarray(theta.filters)[..., 0, chosen]), cmap="gray")
        ax.set_title("filters, strongest first" if ax is axes[0, 3] else "")
    for ax in axes.flat:
        ax.set_axis_off()


def _sheet(filters: np.ndarray, columns: int = 4) -> np.ndarray:
    """Filters side by side, each on its own scale; grey is zero."""
    sheet = np.zeros((3 * (SIDE + 1), columns * (SIDE + 1)))
    for i, image in enumerate(np.moveaxis(filters, -1, 0)):
        top, left = i // columns * (SIDE + 1), i % columns * (SIDE + 1)
        sheet[top : top + SIDE, left : left + SIDE] = image / max(np.abs(image).max(), 1e-12)
    return sheet


if __name__ == "__main__":
    EXPERIMENT.main(run)
