"""Several processes as one: each publishes its snapshot, one reads and merges them.

``SnapshotPublisher`` in each process; ``SnapshotDirectory`` or ``SnapshotSocket`` in the one that is scraped.
"""

from batchscope.publishing.directory import SnapshotDirectory
from batchscope.publishing.publisher import SnapshotPublisher
from batchscope.publishing.socket_reader import SnapshotSocket

__all__ = ["SnapshotDirectory", "SnapshotPublisher", "SnapshotSocket"]
