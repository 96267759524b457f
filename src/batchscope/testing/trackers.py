"""What trackers onto the double were told, refused or lost: it never became a record."""

from __future__ import annotations

from collections.abc import Iterator

from batchscope.testing.double import RecordingMetrics


def check(recorded: RecordingMetrics, *, drained: bool) -> Iterator[str]:
    """Calls that contradict others or were refused, and requests that did not end."""
    for heard in recorded.heard.values():
        yield from heard.contradictions()
    for tracker in recorded.trackers:
        counts = tracker.counts()
        for reason, number in counts.rejected.items():
            yield f"{number} {'call' if number == 1 else 'calls'} of a tracker refused as {reason}: expected none"
        if drained and counts.lost:
            lost = "1 request" if counts.lost == 1 else f"{counts.lost} requests"
            yield f"{lost} of a tracker lost: expected an end of each"
    received = sum(tracker.counts().received - tracker.counts().lost for tracker in recorded.trackers)
    if drained and recorded.trackers and received > len(recorded.requests):
        arrived = "1 request" if received == 1 else f"{received} requests"
        yield f"{arrived} arrived and {len(recorded.requests)} ended: expected that all have left"
