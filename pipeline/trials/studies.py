"""Studies as they are declared: arms × every combination of the grid's values × seeds."""

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import Field

from pipeline.common.parameters import StrictModel

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Level = dict[str, Any]  # one combination of a grid's values, as overrides of a trial
Cell = tuple[str, str, Level]  # study, arm and level: what one stage runs over the study's seeds


class Study(StrictModel):
    """Arms × every combination of the grid's values × seeds, answering one question."""

    arms: list[Name] = Field(min_length=1)
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]]
    seeds: list[Seed] = Field(min_length=1)
    log_models: bool = False

    def levels(self) -> Iterator[Level]:
        """Yield each combination of the grid's values."""
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def count_trials(self) -> int:
        """Count the trials without enumerating them."""
        return len(self.arms) * len(self.seeds) * math.prod(map(len, self.grid.values()))


def cells(studies: Mapping[str, Study]) -> Iterator[Cell]:
    """Yield every cell of every study, in the order in which they are declared."""
    for name, study in studies.items():
        for arm, level in product(study.arms, study.levels()):
            yield name, arm, level
