"""Two sides by their evaluation cards: what the generator of a run achieves, and what those of the reference do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from attrs import frozen
from scipy.special import stdtrit

from harness.comparison.cards import card_problems
from harness.config.metrics import METRICS
from harness.config.runs import EVALUATION, is_card_of
from harness.errors import HarnessError
from harness.io import read_json
from harness.reference.signals import Run

CARD = "cards.json"
LEVEL = 0.95
KINDS = {"dmd": "run", "causal_sft": "causal_sft", "sft": "teacher"}  # of a card, by the method of its run
MODEL = {"dmd": "student", "causal_sft": "causal_sft", "sft": "teacher"}  # the one that was trained


@frozen(kw_only=True)
class Score:
    """A metric of the card: the run's value, and those of the reference's runs that have it."""

    metric: str
    run: float
    reference: tuple[float, ...]

    @property
    def band(self) -> tuple[float, float] | None:
        """Where one more run of the reference would be with a probability of `LEVEL`: Student's prediction interval, no
        narrower than what is worth a claim. None for a single run.
        """
        if (count := len(self.reference)) < 2:
            return None
        spread = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * stdev(self.reference) * math.sqrt(1 + 1 / count)
        half, centre = max(spread, METRICS[self.metric].smallest_effect or 0.0), mean(self.reference)
        return centre - half, centre + half

    @property
    def outside(self) -> bool:
        """Whether the run is beyond the band."""
        return self.band is not None and not self.band[0] <= self.run <= self.band[1]


@frozen(kw_only=True)
class Evaluated:
    """The scores of both sides. There are none where the cards do not compare (`unlike`: the entries in which their
    protocols differ) or the run was not evaluated (`absent`).

    alone     metrics that one side alone has
    without   runs of the reference that were not evaluated
    """

    scores: tuple[Score, ...] = ()
    unlike: tuple[str, ...] = ()
    absent: bool = False
    alone: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def evaluated(run: Run, reference: Sequence[Run]) -> Evaluated | None:
    """Compare the cards; None where the whole reference has none, or the run is not finished.

    Raises:
        HarnessError: a card is damaged.
    """
    own, others = card_of(run), {other.name: card for other in reference if (card := card_of(other)) is not None}
    if not others or not run.manifest:
        return None
    if own is None:
        return Evaluated(absent=True)
    protocol, theirs = own["protocol"], [card["protocol"] for card in others.values()]
    keys = dict.fromkeys(key for each in (protocol, *theirs) for key in each)
    unlike = tuple(key for key in keys if any(each.get(key) != protocol.get(key) for each in theirs))
    if unlike:
        return Evaluated(unlike=unlike)
    values = _values(own, run)
    metrics = [_values(others[other.name], other) for other in reference if other.name in others]
    scores = {
        name: Score(metric=name, run=values[name], reference=tuple(each[name] for each in metrics if name in each))
        for name in METRICS
        if name in values and any(name in each for each in metrics)
    }
    return Evaluated(
        scores=tuple(scores.values()),
        alone=tuple(
            name for name in METRICS if name not in scores and any(name in each for each in (values, *metrics))
        ),
        without=tuple(other.name for other in reference if other.name not in others),
    )


def card_of(run: Run) -> dict[str, Any] | None:
    """The card of a run; None where it was not evaluated, or where that of an ad hoc run is of an earlier one.

    Raises:
        HarnessError: the card is damaged.
    """
    path = (run.folder / EVALUATION if run.manifest.get("ad_hoc") else run.folder) / CARD
    if not path.is_file() or _method(run) not in KINDS:
        return None
    card = read_json(path)
    if problems := list(card_problems(card, KINDS[_method(run)])):
        raise HarnessError(f"{path}: {'; '.join(problems)}; evaluate the run again")
    return card if is_card_of(card, run.manifest) else None


def _method(run: Run) -> str:
    return str(run.manifest.get("config", {}).get("method"))


def _values(card: dict[str, Any], run: Run) -> dict[str, float]:
    """The values of the model that a run trained."""
    metrics = card["models"][MODEL[_method(run)]]["metrics"]
    return {name: estimate["value"] for name, estimate in metrics.items() if estimate["value"] is not None}
