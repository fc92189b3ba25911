"""The course of a job on SageMaker: one row an attempt, one bar a stage."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from helpers.visual.style import FIRST, MUTED, SECOND, new_axes

COLOURS = {"Training": FIRST, "Downloading": MUTED, "Uploading": SECOND}
ENDS = {"Interrupted": "machine taken away", "Completed": "completed", "Failed": "failed", "Stopped": "stopped"}


def show_stages(job: Mapping, *, ax: Axes | None = None) -> Axes:
    """Draw when a training job did what.

    Parameters
    ----------
    job : mapping
        What ``DescribeTrainingJob`` says of a job that has ended.
    ax : Axes, optional
    """
    stages = job["SecondaryStatusTransitions"]
    begin = stages[0]["StartTime"]
    ax = new_axes(ax, (8.0, 1.8))
    attempt, labelled = 1, set()
    for stage in stages:
        start = (stage["StartTime"] - begin).total_seconds()
        end = (stage.get("EndTime", stage["StartTime"]) - begin).total_seconds()
        if colour := COLOURS.get(stage["Status"]):
            label = None if stage["Status"] in labelled else stage["Status"]
            labelled.add(stage["Status"])
            ax.barh(attempt, end - start, left=start, height=0.5, color=colour, label=label)
        if words := ENDS.get(stage["Status"]):
            ax.annotate(words, (start, attempt), xytext=(6, 0), textcoords="offset points", va="center")
        attempt += stage["Status"] == "Interrupted"
    last = (stages[-1]["StartTime"] - begin).total_seconds()
    ax.set(
        xlabel="seconds since the job was sent", yticks=range(1, attempt + 1), ylim=(attempt + 0.6, 0.4), xlim=(0, 1.25 * last)
    )
    ax.set_yticklabels([f"attempt {number}" for number in range(1, attempt + 1)])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.3), ncols=3)
    return ax
