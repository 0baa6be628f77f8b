"""The leak guard sees what it should, and only that."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

from pytikv.testing.leaks import LeakGuard


def test_nothing_left() -> None:
    guard = LeakGuard()
    with socket.create_server(("127.0.0.1", 0)):
        thread = threading.Thread(target=lambda: None)
        thread.start()
    assert guard.finish() == []
    thread.join()


def test_thread_left() -> None:
    guard = LeakGuard()
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="forgotten")
    thread.start()
    leaks = guard.finish()
    done.set()
    thread.join()
    assert leaks == ["thread 'forgotten'"]


def test_thread_that_is_about_to_end_is_waited_for() -> None:
    guard = LeakGuard()
    timer = threading.Timer(0.05, lambda: None)
    timer.start()
    assert guard.finish() == []


def test_socket_left() -> None:
    guard = LeakGuard()
    with socket.create_server(("127.0.0.1", 0)):
        leaks = guard.finish()
    assert leaks == ["1 open sockets"]


def test_error_in_a_callback_of_asyncio() -> None:
    guard = LeakGuard()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    outer = [handler for handler in logging.getLogger("asyncio").handlers if handler is not guard.complaints]
    for handler in outer:  # the guard of this very test must not hear of it
        logging.getLogger("asyncio").removeHandler(handler)
    asyncio.run(main())
    for handler in outer:
        logging.getLogger("asyncio").addHandler(handler)
    leaks = guard.finish()
    assert len(leaks) == 1
    assert "Exception in callback" in leaks[0]
