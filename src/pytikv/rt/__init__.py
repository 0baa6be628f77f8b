"""Runtimes: the only room that touches the network, the clock and threads. `interface` says what each one offers."""
