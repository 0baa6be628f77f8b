"""Measuring a store together with this client: YCSB's workloads, a bank like TPC-B's, points; reports and comparisons.

`running.run` does a run and returns a `report.Report`; workloads are in `workloads` and `tpcb`. What is measured is
Python's way of using the store: the threads and tasks share one process with the measurement, and one GIL.
"""
