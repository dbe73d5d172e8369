"""How many model servers a peak needs, what they may use and cost, and how an autoscaler would follow the traffic.

All of it is arithmetic and simulation on what was measured once (`measured`), which `pipelines.benchmarking` does.
"""

from pipelines.capacity.measured import MeasuredServer
from pipelines.capacity.sizing import Demand, Sizing, size

__all__ = ["Demand", "MeasuredServer", "Sizing", "size"]
