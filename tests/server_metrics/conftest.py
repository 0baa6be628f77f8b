from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pytikv.rt.aio import AioRuntime
from pytikv.server.serve import ServeConfig, Server

sys.path.insert(0, str(Path(__file__).parent))

ANY = "127.0.0.1:0"


@pytest.fixture
def running() -> Callable[..., None]:
    """Run `body(running)` against a server; keyword arguments are options of `ServeConfig`."""

    import metric_pages

    def run(body: Callable[[metric_pages.Running], Awaitable[None]], **options: Any) -> None:
        async def main() -> None:
            rt = AioRuntime()
            server = Server(rt, ServeConfig(**{"addr": ANY, "pd_addr": ANY, "status_addr": ANY, **options}))
            await server.start()
            try:
                await body(metric_pages.Running(server))
            finally:
                await server.stop()
                await rt.close()

        asyncio.run(asyncio.wait_for(main(), 60))

    return run
