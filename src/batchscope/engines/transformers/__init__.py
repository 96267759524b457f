"""transformers' continuous batching: what its hooks hand out becomes records."""

from batchscope.engines.transformers.attach import Attachment, attach, limits_of

__all__ = ["Attachment", "attach", "limits_of"]
