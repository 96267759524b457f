"""The embedded scheduler and its workloads: the reference integration of ``RequestTracker``."""

from batchscope.simulator.cost import LinearCostModel
from batchscope.simulator.disturbances import Disturbances
from batchscope.simulator.options import SchedulerOptions
from batchscope.simulator.simulator import SimulationResult, Simulator
from batchscope.simulator.synthetic import Lengths, RequestClass, SyntheticWorkload
from batchscope.simulator.traces import Trace, open_trace
from batchscope.simulator.tracker import Tracker
from batchscope.simulator.virtual_clock import VirtualClock
from batchscope.simulator.workload import RequestSpec, Workload

__all__ = [
    "Disturbances",
    "Lengths",
    "LinearCostModel",
    "RequestClass",
    "RequestSpec",
    "SchedulerOptions",
    "SimulationResult",
    "Simulator",
    "SyntheticWorkload",
    "Trace",
    "Tracker",
    "VirtualClock",
    "Workload",
    "open_trace",
]
