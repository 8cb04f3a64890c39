"""Real clips at any place: what the segments of long clips are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.data.digits import Attributes, render
from harness.evaluation.evaluators import CHUNK, Evaluators, Measurements
from harness.evaluation.panel import ClipSet
from harness.evaluation.segments import Span


def continued(evaluators: Evaluators, attributes: Sequence[dict], span: Span) -> Measurements:
    """Moving digits with these attributes, measured in the pixel frames `span` of clips that go on and on."""
    height, width = evaluators.geometry.height, evaluators.geometry.width
    start, end = span
    parts = []
    for first in range(0, len(attributes), CHUNK):
        drawn = (Attributes(**a) for a in attributes[first : first + CHUNK])
        videos = [render(a, frames=end - start, height=height, width=width, start=start) for a in drawn]
        parts.append(evaluators.measure(np.stack(videos)))
    return Measurements.cat(parts)


def segment_references(evaluators: Evaluators, reference: ClipSet, spans: Sequence[Span]) -> list[ClipSet]:
    """The real clips of `reference` at the place of each segment: moving digits go on, real videos end, so theirs are
    the same in every segment.
    """
    if not evaluators.geometry.has_digits:
        return [reference] * len(spans)
    later = [continued(evaluators, reference.attributes, span) for span in spans[1:]]
    return [reference, *(reference.with_measured(measured) for measured in later)]
