"""Several processes as one: each publishes its snapshot, one reads and merges them.

``SnapshotPublisher`` in each process; ``SnapshotDirectory`` in the one that is scraped.
"""

from batchscope.publishing.directory import SnapshotDirectory
from batchscope.publishing.publisher import SnapshotPublisher

__all__ = ["SnapshotDirectory", "SnapshotPublisher"]
