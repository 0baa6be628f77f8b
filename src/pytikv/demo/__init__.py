"""The demonstration: a real data set into a store and back, everything compared with its source.

`dataset` reads the data, `latency` measures, `run` does the work and tells a listener; the command line renders it.
"""
