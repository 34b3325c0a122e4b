"""What matching two clouds is for: domains, pictures, colours and treatments, scored honestly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import rotate
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import cellflow as cf
from cellflow.metrics import wasserstein2
from cellflow.training import Training

QUICK = cf.OTCFM(training=Training(learning_rate=3e-3, ema=0.99))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits in random order, 8 by 8 pixels in [0, 1], and what they are."""
    pixels, digit = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    return pixels[order] / 16, digit[order]


@pytest.mark.parametrize(
    ("change", "at_most", "at_least"),
    # Rotated digits are nearer to upright ones of their kind than to others, measured .56 -> .82;
    # of inverted ones the nearest are others, measured 0 -> .002: transport does not know better.
    [("rotated", 0.65, 0.7), ("inverted", 0.05, 0.0)],
)
def test_classifier_of_one_domain_before_and_after_the_other_is_carried(
    digits, change, at_most, at_least
):
    pixels, digit = digits
    known, new, answers = pixels[:900], pixels[900:], digit[900:]
    classifier = LogisticRegression(max_iter=1000).fit(known, digit[:900])
    assert classifier.score(new, answers) > 0.93
    images = new.reshape(-1, 8, 8)
    turned = rotate(images, 20, axes=(1, 2), reshape=False, order=1).reshape(-1, 64)
    other = turned if change == "rotated" else 1 - new
    moved = cf.FlowTransport(QUICK, target=known, steps=200).fit(other).transform(other)
    before, after = classifier.score(other, answers), classifier.score(moved, answers)
    assert before < at_most and after >= at_least
    assert (after > 0.1) == (change == "rotated")


def test_threes_become_eights_without_pairs(digits, tmp_path):
    from matplotlib.figure import Figure

    pixels, digit = digits
    threes, eights = pixels[digit == 3], pixels[digit == 8]
    judge = LogisticRegression(max_iter=1000).fit(pixels, digit)
    done = cf.match(threes[40:], eights, QUICK, steps=200, progress=False)
    unseen = threes[:40]
    moved = done.transport(unseen).numpy()
    assert np.mean(judge.predict(unseen) == 3) > 0.9
    assert np.mean(judge.predict(moved) == 8) > 0.8
    # An eight is the three it came from with its loops closed: nearer than eights are on average.
    apart = ((unseen[:, None] - eights) ** 2).sum(-1).mean()
    assert ((moved - unseen) ** 2).sum(1).mean() < 0.6 * apart

    figure = Figure(figsize=(8, 2))
    axes = figure.subplots(2, 10)
    for row, images in zip(axes, (unseen, moved), strict=True):
        for ax, image in zip(row, images[:10], strict=False):
            ax.imshow(image.reshape(8, 8), cmap="gray", vmin=0, vmax=1)
            ax.set_axis_off()
    figure.savefig(tmp_path / "threes_to_eights.png")
    assert (tmp_path / "threes_to_eights.png").stat().st_size > 2000


def picture(first: tuple, second: tuple, seed: int) -> np.ndarray:
    """A picture, 40 by 60, whose colour goes from the `first` at the top to the `second`."""
    rng, down = np.random.default_rng(seed), np.linspace(0, 1, 40)[:, None, None]
    return (1 - down) * first + down * second + 0.04 * rng.normal(size=(40, 60, 3))


def test_a_picture_takes_the_colours_of_another(tmp_path):
    sea = picture((0.1, 0.2, 0.5), (0.3, 0.7, 0.8), 0)
    dusk = picture((0.2, 0.05, 0.3), (0.95, 0.6, 0.2), 1)
    x0, x1 = sea.reshape(-1, 3), dusk.reshape(-1, 3)
    done = cf.match(x0[::2], x1[::2], QUICK, steps=200, progress=False)
    moved = done.transport(x0).numpy()  # pixels that were not trained on, too
    assert wasserstein2(moved[1::2], x1[1::2]) < 0.2 * wasserstein2(x0[1::2], x1[1::2])
    shades = moved.reshape(sea.shape).mean((1, 2))  # what was dark stays so: no row is out of turn
    assert np.corrcoef(shades, sea.mean((1, 2)))[0, 1] > 0.98


def test_a_treatment_is_seen_in_the_cells_that_it_moves():
    """Of two types, as many in both clouds, one responds; no cell is measured twice."""
    rng = np.random.default_rng(0)
    responds = np.arange(1200) % 2 == 0
    cells = rng.normal(size=(1200, 5)) * 0.5 + np.where(responds, 3.0, -3.0)[:, None] * np.eye(5)[0]
    control, treated = cells[:600], cells[600:].copy()
    treated[responds[600:]] += [0, 2.0, 0, 0, 0]
    done = cf.match(control, treated, QUICK, steps=200, progress=False)
    effect = done.transport(control).numpy() - control
    found = [effect[responds[:600] == kind].mean(0) for kind in (True, False)]
    # Standard errors of the means are .04; the network's error is as much again.
    np.testing.assert_allclose(found, [[0, 2, 0, 0, 0], np.zeros(5)], atol=0.2)
