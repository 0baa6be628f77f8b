"""Examining a cluster, and this process in front of it: what is wrong, by which evidence, and what to do about it.

    evidence   what may be known, as plain values
    site       what was connected to, as far as that was possible
    gather     asks for evidence: PD, stores, this process
    data       looks at a little of the data: locks, sizes of values
    judges     evidence in, findings out; pure, so that every threshold can be tested
    findings   what a finding is, and a report of them
    examine    the table of checks, each with a deadline, one after the other

A check that cannot be made (a page that a server lacks, a store that is down) says why and keeps no other from being
made. Nothing is written to the cluster, and what is read of the data is bounded.
"""
