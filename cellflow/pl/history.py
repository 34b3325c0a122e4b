"""Losses and learning rate of training."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cellflow import _checks
from cellflow.fits import Fit
from cellflow.pl import _frame
from cellflow.training.trainer import History

#: Losses that span more than this factor are drawn on a logarithmic axis.
_LOG_FROM = 5.0


def history(fit: Fit | History, *, ax: Axes | None = None) -> Axes:
    """Draw training and validation loss, the step that was kept, and the learning rate.

    Of a fit, or of its history (`fit`), on the axes `ax` or in a new figure; those of the learning
    rate lie over it. Flow-matching losses do not go to zero: what remains is how far pairs that
    cross disagree.
    """
    record = fit.history if isinstance(fit, Fit) else fit
    unit = "model units² / time²"
    if isinstance(fit, Fit):  # whose network may be trained in coordinates that are scaled
        prep = fit.preprocessing
        scaled = prep is not None and bool((prep.scale != 1).any())
        unit = f"{'model' if scaled else 'data'} units² / {fit.course.unit}²"
    if not record.step:
        raise ValueError(_checks.message("fit", "an empty history", "at least one check"))
    ax = _frame.axes(ax, size=(4.0, 2.7))
    rate = ax.twinx()
    rate.plot(record.step, record.learning_rate, color=_frame.GREY, lw=1, ls=(0, (4, 2)))
    ax.plot(record.step, record.train_loss, color=_frame.PALETTE[0], lw=1.2, label="training")
    # Without held-back cells the validation loss is the training loss.
    if record.validation_loss != record.train_loss:
        ax.plot(
            record.step, record.validation_loss, color=_frame.PALETTE[1], lw=1.2, label="validation"
        )
    if record.best_step in record.step:
        best = record.validation_loss[record.step.index(record.best_step)]
        ring: dict[str, Any] = {"ms": 5, "mfc": "white", "mec": _frame.DARK, "clip_on": False}
        label = f"kept (step {record.best_step:,})"
        ax.plot([record.best_step], [best], "o", label=label, zorder=4, **ring)
    losses = [*record.train_loss, *record.validation_loss]
    if min(losses) > 0 and max(losses) > _LOG_FROM * min(losses):
        ax.set_yscale("log")
    ax.set_zorder(rate.get_zorder() + 1)  # losses over the learning rate
    ax.patch.set_visible(False)
    _frame.dress(ax, x="training step", y=f"loss ({unit})")
    _frame.dress(rate, x="", y="learning rate")
    rate.spines["right"].set(visible=True, color=_frame.GREY)
    rate.spines["left"].set_visible(False)
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_locator(MaxNLocator(4))
    rate.yaxis.set_major_formatter("{x:g}")
    rate.tick_params(colors="#8f8f8f")
    rate.yaxis.label.set_color("#8f8f8f")
    _frame.legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2)
    return ax
