"""A server, its pages of metrics as Prometheus reads them, and the names that the real servers have."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

import pytikv
from pytikv.server.serve import Server

NAMES = Path(__file__).parent / "names"


def real_names(which: str) -> dict[str, str]:
    """Return the types of the real server's metrics by name."""
    lines = (NAMES / f"{which}.txt").read_text().splitlines()
    return dict(line.split() for line in lines if not line.startswith("#"))


class Page:
    """A page of metrics, parsed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.types: dict[str, str] = {}
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                self.types[name] = kind
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    def value(self, name: str, **labels: str) -> float:
        """Return the one sample with the labels; 0 when there is none yet."""
        found = [value for has, value in self.samples.get(name, []) if labels.items() <= has.items()]
        assert len(found) <= 1, (name, labels, found)
        return found[0] if found else 0.0


class Running:
    """A server and how to look at it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.rt = server.rt

    async def fetch(self, port: int, path: str, *, method: str = "GET", accept: str = "") -> tuple[int, str, str]:
        """Return status, content type and body."""

        def fetch() -> tuple[int, str, str]:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
            if accept:
                request.add_header("Accept", accept)
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.status, answer.headers["Content-Type"], answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.headers["Content-Type"], error.read().decode()

        return await asyncio.to_thread(fetch)

    async def store(self) -> Page:
        status, _, text = await self.fetch(self.server.status_port, "/metrics")
        assert status == 200
        return Page(text)

    async def pd(self) -> Page:
        status, _, text = await self.fetch(self.server.pd_port, "/metrics")
        assert status == 200
        return Page(text)

    async def raw(self) -> Any:
        return await pytikv.AsyncRawClient.connect(self.server.url)

    async def txn(self) -> Any:
        return await pytikv.AsyncTransactionClient.connect(self.server.url)
