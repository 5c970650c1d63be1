"""Raw measures: what of a trial's history bears on a claim, as one number.

A history has a row for each epoch that the trial was to have; of those that a trial no longer came to, because it diverged,
nothing is known (NaN). So a measure over them is NaN too, but for those that say otherwise.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from pipeline.common.parameters import StrictModel

Histories = Mapping[int, pd.DataFrame]  # the trials of one seed and level, by any number: one row per epoch
CHANCE = 0.1  # accuracy before the first epoch


class _OfColumn(StrictModel):
    """A measure of one column of a history."""

    column: str

    @property
    def unit(self) -> Literal["accuracy", "nats", "log_ratio"]:
        """What differences of it are in; `log_ratio` where it is a logarithm."""
        return "accuracy" if "accuracy" in self.column else "nats"


class _OfEachTrial(_OfColumn):
    """A measure for which a trial's history is enough."""

    def of_seed(self, histories: Histories) -> dict[int, float]:
        """Measure each trial; NaN where it has no such value."""
        return {number: self.of_trial(history) for number, history in histories.items()}

    def of_trial(self, history: pd.DataFrame) -> float:
        """Measure a trial by its history."""
        raise NotImplementedError


class MeanOfLastEpochs(_OfEachTrial):
    """Mean over the last epochs."""

    kind: Literal["mean_of_last_epochs"]
    epochs: int = Field(ge=1)

    def of_trial(self, history: pd.DataFrame) -> float:
        """Measure a trial by its history."""
        return float(history[self.column].tail(self.epochs).mean(skipna=False))


class AfterEpoch(_OfEachTrial):
    """Value after an epoch; a trial that ended earlier, because it diverged, counts with its last one."""

    kind: Literal["after_epoch"]
    epoch: int = Field(ge=1)

    def of_trial(self, history: pd.DataFrame) -> float:
        """Measure a trial by its history."""
        known = history.loc[history["epoch"] <= self.epoch, self.column].dropna()
        return float(known.iloc[-1]) if len(known) else math.nan


class _Logarithm(_OfEachTrial):
    """A measure that is a natural logarithm."""

    @property
    def unit(self) -> Literal["accuracy", "nats", "log_ratio"]:
        """What differences of it are in."""
        return "log_ratio"


class LogSDOfChanges(_Logarithm):
    """Natural logarithm of the sample SD of the changes from one epoch to the next, from an epoch on."""

    kind: Literal["log_sd_of_changes"]
    from_epoch: int = Field(ge=1)

    def of_trial(self, history: pd.DataFrame) -> float:
        """Measure a trial by its history."""
        changes = history.loc[history["epoch"] >= self.from_epoch, self.column].diff().iloc[1:]
        sd = float(changes.std(ddof=1, skipna=False))
        return math.log(sd) if sd > 0 else math.nan


class LogEpochsToReach(_Logarithm):
    """Natural logarithm of the epochs until an accuracy is reached, interpolated between epochs.

    The accuracy is a mean over this and up to `mean_of` − 1 epochs before; one that is not reached, by a trial that diverged
    either, counts as reached an epoch after the last.
    """

    kind: Literal["log_epochs_to_reach"]
    level: float = Field(gt=CHANCE, lt=1)
    mean_of: int = Field(ge=1)

    def of_trial(self, history: pd.DataFrame) -> float:
        """Measure a trial by its history."""
        accuracies = history[self.column]
        means = accuracies.rolling(self.mean_of, min_periods=1).mean().where(accuracies.notna())
        reached = np.flatnonzero(means >= self.level)
        if len(reached) == 0:
            return math.log(len(history) + 1)
        first = int(reached[0])
        before, after = (float(means.iloc[first - 1]) if first else CHANCE), float(means.iloc[first])
        return math.log(first + (self.level - before) / (after - before))


class AtMatchedLevel(_OfColumn):
    """Value where another column first falls to a level, interpolated: the lowest level that all `arms` reach in a seed."""

    kind: Literal["at_matched_level"]
    level_of: str
    arms: list[str] = Field(min_length=2)

    def of_seed(self, histories: Histories) -> dict[int, float]:
        """Measure the trials of the arms; NaN for others, and for all if one of them has no finite level."""
        compared = {number: history for number, history in histories.items() if history["arm"].iloc[0] in self.arms}
        lowest = [float(history[self.level_of].min(skipna=False)) for history in compared.values()]
        level = max(lowest) if len(lowest) >= len(self.arms) and all(map(math.isfinite, lowest)) else math.nan
        return {number: self._at(level, history) if number in compared else math.nan for number, history in histories.items()}

    def _at(self, level: float, history: pd.DataFrame) -> float:
        if math.isnan(level):
            return math.nan
        levels, values = history[self.level_of].to_numpy(), history[self.column].to_numpy()
        first = int(np.flatnonzero(levels <= level)[0])
        if first == 0:
            return float(values[0])
        share = (levels[first - 1] - level) / (levels[first - 1] - levels[first])
        return float(values[first - 1] + share * (values[first] - values[first - 1]))


Measure = Annotated[MeanOfLastEpochs | AfterEpoch | LogSDOfChanges | LogEpochsToReach | AtMatchedLevel, Field(discriminator="kind")]


class _Across(StrictModel):
    """Reduces a measure over the levels of a parameter to one number for each arm and seed."""

    parameter: str


class Range(_Across):
    """Highest minus lowest value."""

    take: Literal["range"]

    def of(self, values: "pd.Series[float]") -> float:
        """Reduce values, indexed by the parameter's levels."""
        return float(values.max(skipna=False) - values.min(skipna=False))


class LargestUsable(_Across):
    """Log10 of the largest level whose value is at least the threshold.

    Between it and the next level, the value is interpolated over log10 of the level, since the grid is coarse. With none
    usable it is one step of the grid below the lowest level.
    """

    take: Literal["largest_usable"]
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
