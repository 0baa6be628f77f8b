"""Concurrency patterns over transactions, each small, each saying what it guarantees.

strategies   optimistic, pessimistic, adaptive: how a change that others may race is made
versions     compare-and-set by a version field, across requests
counter      a counter that many may add to at once
sequence     ids in blocks
lease        one holder at a time, with a fencing token
"""

from __future__ import annotations

from pytikv.model.patterns.counter import Counter
from pytikv.model.patterns.lease import Lease, LeaseLost
from pytikv.model.patterns.sequence import Sequence
from pytikv.model.patterns.strategies import Adaptive, optimistic, pessimistic
from pytikv.model.patterns.versions import StaleRow, put_version

__all__ = [
    "Adaptive",
    "Counter",
    "Lease",
    "LeaseLost",
    "Sequence",
    "StaleRow",
    "optimistic",
    "pessimistic",
    "put_version",
]
