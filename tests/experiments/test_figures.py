"""Figures: no two methods of one look alike, and those that are committed are drawn again."""

from importlib import import_module

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest

from benchmarks import _accuracy, _growth
from metacontrast.report import look
from metacontrast.report._style import PALETTE
from tools import figures

EXPERIMENTS = ["sine", "omniglot", "miniimagenet", "credit", "hypercleaning", "cifar10_l2"]
EXPERIMENTS += ["cifar10_overfit", "reweight", "spiking", "bandit"]


def methods(name):
    return list(import_module(name).EXPERIMENT.methods)


def theory_rules():
    return list(import_module("theory").estimators({"forward": 0.1, "symmetric": 0.1}, 0.1, 20))


GROUPS = {name: methods(name) for name in EXPERIMENTS}
GROUPS |= {"theory": theory_rules(), "accuracy": _accuracy.ESTIMATORS, "growth": _growth.ESTIMATORS}


@pytest.mark.parametrize("name", GROUPS)
def test_no_two_methods_of_a_figure_look_alike(name):
    looks = [look(method) for method in GROUPS[name]]
    assert len({x.color for x in looks}) >= min(len(looks), len(PALETTE)) - 1
    assert len(set(looks)) == len({x.marker for x in looks}) == len(looks)


def test_a_method_looks_the_same_under_every_label():
    assert look("5w1s cml-head") == look("cml-head") == look("20w1s cml-head vinyals")
    assert look("never heard of") == look("never heard of")


def luminance(color):
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("color", PALETTE)
def test_lines_are_seen_on_white_and_on_the_ground_of_a_dark_page(color):
    dark, own = luminance("#14171c"), luminance(color)
    assert 1.05 / (own + 0.05) >= 3 and (own + 0.05) / (dark + 0.05) >= 3  # WCAG 2.2, 1.4.11


@pytest.mark.thorough
def test_the_figures_of_the_pages_are_drawn_from_results_that_are_committed(tmp_path):
    drawn = {path.name for path in figures.draw(list(figures.DRAWN), tmp_path)}
    assert drawn == {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in figures.FIGURES.glob("*.png")}


def test_the_figure_of_costs_shows_every_estimator():
    theory, shown = import_module("_theory_figures"), []
    records = figures.load("theory")["problems"]["digits"]

    def draw(axes):
        theory.draw_costs("digits", records["estimators"], axes)
        low, high = axes.flat[0].get_ylim()
        for line in axes.flat[0].lines:
            y = line.get_ydata()
            if ((low < y) & (y < high)).all():
                shown.append((line.get_label(), line.get_color(), line.get_marker()))

    fig, axes = plt.subplots(1, 1, squeeze=False)
    draw(axes)
    plt.close(fig)
    assert [name for name, *_ in shown] == theory_rules()
    assert all(look(name) == tuple(style) for name, *style in shown)
