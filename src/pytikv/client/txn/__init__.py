"""Transactions: buffer, snapshot reads, two-phase commit, locks met on the way, and their facades."""
