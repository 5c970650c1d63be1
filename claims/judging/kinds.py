"""The kinds of measure that a claim may name: what of a trial's history bears on it, as one number.

A history has a row for each epoch that the trial was to have. The epochs that a diverged trial did not reach have no values (NaN),
and neither has a measure over them, unless it says otherwise. A new kind is a class here, and its name in `Measure`.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pipeline.common.parameters import StrictModel

Histories = Mapping[int, pd.DataFrame]  # the trials of one seed and level, by any number: one row per epoch
MeasureUnit = Literal["accuracy", "nats", "log_ratio", "plain"]
CHANCE = 0.1  # accuracy before the first epoch


class _Measure(StrictModel):
    """A measure of one column of a history."""

    column: str
    is_logarithm: ClassVar[bool] = False

    @property
    def unit(self) -> MeasureUnit:
        """The unit of its differences; `log_ratio` if it is a natural logarithm."""
        if self.is_logarithm:
            return "log_ratio"
        return "accuracy" if "accuracy" in self.column else "nats" if "loss" in self.column else "plain"

    def of_seed(self, histories: Histories) -> dict[int, float]:
        """Return the measure of each trial, NaN if it has no such value."""
        return {number: self.of_trial(history) for number, history in histories.items()}

    def of_trial(self, history: pd.DataFrame) -> float:
        """Return the measure of a trial by its history alone."""
        raise NotImplementedError


class MeanOfLastEpochs(_Measure):
    """Mean over the last epochs."""

    kind: Literal["mean_of_last_epochs"]
    epochs: int = Field(ge=1)

    def of_trial(self, history: pd.DataFrame) -> float:  # noqa: D102 - as the class says
        return float(history[self.column].tail(self.epochs).mean(skipna=False))


class AfterEpoch(_Measure):
    """Value after an epoch. A trial that diverged before counts with its last value."""

    kind: Literal["after_epoch"]
    epoch: int = Field(ge=1)

    def of_trial(self, history: pd.DataFrame) -> float:  # noqa: D102
        known = history.loc[history["epoch"] <= self.epoch, self.column].dropna()
        return float(known.iloc[-1]) if len(known) else math.nan


class LogSDOfChanges(_Measure):
    """Natural logarithm of the sample SD of the changes from one epoch to the next, from an epoch on."""

    kind: Literal["log_sd_of_changes"]
    from_epoch: int = Field(ge=1)
    is_logarithm = True

    def of_trial(self, history: pd.DataFrame) -> float:  # noqa: D102
        changes = history.loc[history["epoch"] >= self.from_epoch, self.column].diff().iloc[1:]
        sd = float(changes.std(ddof=1, skipna=False))
        return math.log(sd) if sd > 0 else math.nan


class LogEpochsToReach(_Measure):
    """Natural logarithm of the epochs until an accuracy is reached, interpolated between epochs.

    The accuracy is a mean over this epoch and up to `mean_of` − 1 before. A trial that does not reach it, because it diverged or not,
    counts as if it had reached it an epoch after the last.
    """

    kind: Literal["log_epochs_to_reach"]
    level: float = Field(gt=CHANCE, lt=1)
    mean_of: int = Field(ge=1)
    is_logarithm = True

    def of_trial(self, history: pd.DataFrame) -> float:  # noqa: D102
        accuracies = history[self.column]
        means = accuracies.rolling(self.mean_of, min_periods=1).mean().where(accuracies.notna())
        reached = np.flatnonzero(means >= self.level)
        if len(reached) == 0:
            return math.log(len(history) + 1)
        first = int(reached[0])
        before, after = (float(means.iloc[first - 1]) if first else CHANCE), float(means.iloc[first])
        return math.log(first + (self.level - before) / (after - before))


class AtMatchedLevel(_Measure):
    """Value where another column first falls to a level, interpolated: the lowest level that all `arms` reach in a seed.

    Other arms have no value, and none has one if an arm is missing or has no finite level.
    """

    kind: Literal["at_matched_level"]
    level_of: str
    arms: list[str] = Field(min_length=2)

    def of_seed(self, histories: Histories) -> dict[int, float]:  # noqa: D102
        compared = {number: history for number, history in histories.items() if history["arm"].iloc[0] in self.arms}
        lowest = [float(history[self.level_of].min(skipna=False)) for history in compared.values()]
        values = dict.fromkeys(histories, math.nan)
        if len(lowest) < len(self.arms) or not all(map(math.isfinite, lowest)):
            return values
        for number, history in compared.items():
            levels, column = history[self.level_of].to_numpy(), history[self.column].to_numpy()
            first = int(np.flatnonzero(levels <= max(lowest))[0])
            values[number] = float(column[first])
            if first > 0:
                share = (levels[first - 1] - max(lowest)) / (levels[first - 1] - levels[first])
                values[number] = float(column[first - 1] + share * (column[first] - column[first - 1]))
        return values


Measure = Annotated[MeanOfLastEpochs | AfterEpoch | LogSDOfChanges | LogEpochsToReach | AtMatchedLevel, Field(discriminator="kind")]


class Range(StrictModel):
    """Highest minus lowest measure over the levels of a parameter."""

    take: Literal["range"]
    parameter: str

    def of(self, values: "pd.Series[float]") -> float:
        """Reduce values, indexed by the parameter's levels."""
        return float(values.max(skipna=False) - values.min(skipna=False))


class LargestUsable(StrictModel):
    """Log10 of the largest level of a parameter whose measure is at least the threshold.

    Between it and the next level, the measure is interpolated over log10 of the level, since the grid is coarse. If no level is
    usable, the value is one step of the grid below the lowest level.
    """

    take: Literal["largest_usable"]
    parameter: str
    threshold: float

    def of(self, values: "pd.Series[float]") -> float:
        """Reduce values, indexed by the parameter's levels, all of them above 0."""
        ordered = values.sort_index()
        levels, reached = np.log10(ordered.index.to_numpy(dtype=float)), ordered.to_numpy()
        usable = np.flatnonzero(reached >= self.threshold)
        if len(usable) == 0:
            return float(2 * levels[0] - levels[1]) if len(levels) > 1 else math.nan
        last = int(usable[-1])
        if last == len(levels) - 1:
            return float(levels[last])
        share = (reached[last] - self.threshold) / (reached[last] - reached[last + 1])
        return float(levels[last] + share * (levels[last + 1] - levels[last]))


Across = Annotated[Range | LargestUsable, Field(discriminator="take")]
