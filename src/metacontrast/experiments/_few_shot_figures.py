"""Figures of few-shot classification."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import metacontrast as mc

from ._few_shot_learners import Learner


def draw_episode(learner: Learner, theta: Any, task: mc.Task, axes: Any) -> None:
    """A task: an example of each class to learn from, and one query of each under its verdict."""

    @jax.jit
    def logits(theta: Any, task: mc.Task) -> jax.Array:
        phi = mc.learn(learner.judge, learner.judge_solve, theta, task).phi
        return learner.logits(phi, theta, task)

    verdicts = np.argmax(logits(theta, task), axis=-1)
    titles = ("learned from", "query: the class it is taken for")
    halves = ((task.train, task.train.y), (task.test, verdicts))
    for ax, (data, labels), title in zip(axes.flat, halves, titles, strict=True):
        _, first = np.unique(data.y, return_index=True)  # tasks are ordered by class
        _tile(ax, np.asarray(data.x)[first], np.asarray(labels)[first])
        ax.set_title(title, fontsize=9)


def _tile(ax: Any, x: np.ndarray, labels: Any) -> None:
    """Images on a grid, five a row, each with its label; red where it is not its own number."""
    n, side = len(x), x.shape[1]
    sheet = np.ones((-(-n // 5) * (side + side // 3), 5 * (side + 4), x.shape[3]))
    for i, (image, label) in enumerate(zip(x, labels, strict=True)):
        top, left = i // 5 * (side + side // 3) + side // 3, i % 5 * (side + 4)
        sheet[top : top + side, left : left + side] = 1 - image if x.shape[3] == 1 else image
        ax.text(left, top - 2, str(label), fontsize=6, color="k" if label == i else "r")
    ax.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1)
    ax.set_axis_off()


def draw_learning(metrics: Any, axes: Any) -> None:
    """Meta-loss in training and accuracy on validation classes, by meta-step."""
    steps = [line["step"] for line in metrics]
    for ax, name, label in zip(
        axes.flat,
        ("meta_loss", "valid_accuracy"),
        ("meta-loss, training", "validation accuracy (%)"),
        strict=True,
    ):
        ax.plot(steps, [line[name] for line in metrics])
        ax.set_xlabel("meta-steps")
        ax.set_ylabel(label)


def draw_filters(kernels: Any, axes: Any) -> None:
    """The first layer's kernels (height, width, channels, filters), eight a row, each on its scale.

    Of colour images in colour; of others light where positive.
    """
    w = np.moveaxis(np.asarray(kernels), -1, 0)
    largest = np.maximum(np.abs(w).max(axis=(1, 2, 3), keepdims=True), 1e-12)
    side = w.shape[1] + 1
    sheet = np.ones((-(-len(w) // 8) * side - 1, 8 * side - 1, w.shape[3]))
    for i, kernel in enumerate(0.5 + 0.5 * w / largest):
        top, left = i // 8 * side, i % 8 * side
        sheet[top : top + side - 1, left : left + side - 1] = kernel
    axes[0, 0].imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_axis_off()
    axes[0, 0].set_title("kernels of the first layer", fontsize=9)
