"""Resources: GPUs (NVML, AMD SMI) and the process, sampled by a thread. What cannot be sampled is said as a fact."""

from batchscope.resources.sampler import ResourceSampler

__all__ = ["ResourceSampler"]
