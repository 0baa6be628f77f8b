"""The directory to start watching with: what `pytikv monitoring init` writes.

    prometheus.yml                     scrapes the targets, loads the rules
    targets/{clients,tikv,pd}.json     who is scraped; Prometheus reads these again when they change
    rules/pytikv-{recording,alerts}.yml
    dashboards/*.json                  Grafana's dashboards
    grafana/provisioning/...           Grafana finds Prometheus, Loki and the dashboards by these
    loki.yml, promtail.yml             the logs (`pytikv.logging.json`), where the package has them
    compose.yml                        Prometheus, Grafana, Loki and Promtail, on the host's network
    README.md                          what to do next

`files` decides what is in them and touches nothing; `write` writes. A file that is there and differs is never replaced
unless told to, and then nothing else is written either: all or nothing. Everything listens on the loopback address.

Paths are relative to the directory, so that the same prometheus.yml serves a Prometheus that runs on the host and one
that runs in a container.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pytikv.errors import InvalidArgument
from pytikv.monitoring import yaml
from pytikv.monitoring.rules import alert_rules_yaml, recording_yaml

__all__ = ["BOARDS", "DEFAULT_CLIENT", "Kit", "files", "write"]

BOARDS: Final = ("pytikv-client", "pytikv-server")
DEFAULT_CLIENT: Final = "127.0.0.1:9464"

_TARGET: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_DURATION: Final = re.compile(r"(?:[1-9][0-9]*(?:ms|s|m))+")
_MADE_BY: Final = "Written by `pytikv monitoring init`."
_IMAGES: Final = {
    "prometheus": "prom/prometheus:v2.53.5",
    "grafana": "grafana/grafana:11.6.0",
    "loki": "grafana/loki:3.4.2",
    "promtail": "grafana/promtail:3.4.2",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Kit:
    """What is watched. Addresses are `host:port`; `scrape_interval` as Prometheus writes it (15s, 1m)."""

    clients: tuple[str, ...] = (DEFAULT_CLIENT,)
    """Where programs serve their metrics (`client.serve_metrics`)."""
    stores: tuple[str, ...] = ()
    """Status addresses of stores."""
    pds: tuple[str, ...] = ()
    """PD's client addresses."""
    scrape_interval: str = "15s"

    def check(self) -> None:
        """Raise InvalidArgument for an address or interval that Prometheus would refuse."""
        for target in (*self.clients, *self.stores, *self.pds):
            if not _TARGET.fullmatch(target) or int(target.rpartition(":")[2]) not in range(1, 65536):
                raise InvalidArgument(f"a target is HOST:PORT, not {target!r}")
        if not _DURATION.fullmatch(self.scrape_interval):
            raise InvalidArgument(f"a scrape interval is like 500ms, 15s or 1m, not {self.scrape_interval!r}")


def files(kit: Kit) -> dict[str, str]:
    """Return the text of each file by its path in the directory. Raises InvalidArgument."""
    kit.check()
    logs = _log_files()
    made = {
        "prometheus.yml": yaml.dump(_prometheus(kit.scrape_interval), head=_MADE_BY),
        "targets/clients.json": _targets("client", kit.clients),
        "targets/tikv.json": _targets("tikv", kit.stores),
        "targets/pd.json": _targets("pd", kit.pds),
        "rules/pytikv-recording.yml": recording_yaml(_MADE_BY),
        "rules/pytikv-alerts.yml": alert_rules_yaml(_MADE_BY),
        "grafana/provisioning/datasources/pytikv.yml": yaml.dump(_data_sources(bool(logs)), head=_MADE_BY),
        "grafana/provisioning/dashboards/pytikv.yml": yaml.dump(_dashboards(), head=_MADE_BY),
        "compose.yml": yaml.dump(_compose(bool(logs)), head=f"{_MADE_BY} Start it with: docker compose up -d"),
        "README.md": _readme(kit, bool(logs)),
        **logs,
    }
    for name in BOARDS:
        made[f"dashboards/{name}.json"] = _data(f"{name}.json")
    return made


def write(directory: Path, made: Mapping[str, str], *, force: bool = False) -> list[Path]:
    """Write the files; return the paths of those written, without those that were there with the same text.

    Raises FileExistsError that names what differs, before anything is written, unless `force`; other OSErrors as they
    come.
    """
    texts = {directory / name: text for name, text in made.items()}
    present = {path for path in texts if path.exists()}
    differing = sorted(str(path) for path in present if not path.is_file() or path.read_text() != texts[path])
    if differing and not force:
        raise FileExistsError(f"would replace {', '.join(differing)}")
    written = [path for path in texts if path not in present or str(path) in differing]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path])
    return written


# --- the files --------------------------------------------------------------------------------------------------------


def _data(name: str) -> str:
    return (resources.files("pytikv.monitoring") / "data" / name).read_text()


def _log_files() -> dict[str, str]:
    """Return the configurations of Loki and Promtail, where the package has them."""
    folder = resources.files("pytikv.observe") / "data"
    names = ("loki.yml", "promtail.yml")
    return {name: (folder / name).read_text() for name in names} if all((folder / n).is_file() for n in names) else {}


def _targets(role: str, addresses: tuple[str, ...]) -> str:
    return json.dumps([{"targets": list(addresses), "labels": {"role": role}}] if addresses else [], indent=2) + "\n"


def _prometheus(interval: str) -> dict[str, Any]:
    jobs = {"pytikv": "clients", "tikv": "tikv", "pd": "pd"}
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [
            {"job_name": job, "file_sd_configs": [{"files": [f"targets/{name}.json"]}]} for job, name in jobs.items()
        ],
    }


def _data_sources(logs: bool) -> dict[str, Any]:
    sources = [("Prometheus", "prometheus", "http://127.0.0.1:9090")]
    sources += [("Loki", "loki", "http://127.0.0.1:3100")] if logs else []
    return {
        "apiVersion": 1,
        "datasources": [
            {
                "name": name,
                "type": kind,
                "uid": f"pytikv-{kind}",
                "url": url,
                "access": "proxy",
                "isDefault": not number,
            }
            for number, (name, kind, url) in enumerate(sources)
        ],
    }


def _dashboards() -> dict[str, Any]:
    options = {"path": "/etc/pytikv/dashboards"}
    return {
        "apiVersion": 1,
        "providers": [{"name": "pytikv", "folder": "TiKV", "type": "file", "allowUiUpdates": True, "options": options}],
    }


def _compose(logs: bool) -> dict[str, Any]:
    services: dict[str, Any] = {
        "prometheus": {
            "volumes": ["./:/etc/pytikv:ro", "prometheus:/prometheus"],
            "command": [
                "--config.file=/etc/pytikv/prometheus.yml",
                "--storage.tsdb.path=/prometheus",
                "--web.listen-address=127.0.0.1:9090",
                "--enable-feature=exemplar-storage",
            ],
        },
        "grafana": {
            "environment": {
                "GF_SERVER_HTTP_ADDR": "127.0.0.1",
                "GF_AUTH_ANONYMOUS_ENABLED": "true",
                "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": "/etc/pytikv/dashboards/pytikv-client.json",
            },
            "volumes": [
                "./grafana/provisioning:/etc/grafana/provisioning:ro",
                "./dashboards:/etc/pytikv/dashboards:ro",
                "grafana:/var/lib/grafana",
            ],
            "depends_on": ["prometheus"],
        },
    }
    if logs:
        services["loki"] = {
            "volumes": ["./loki.yml:/etc/loki/loki.yml:ro", "loki:/loki"],
            "command": ["-config.file=/etc/loki/loki.yml"],
        }
        services["promtail"] = {
            "volumes": ["./promtail.yml:/etc/promtail/promtail.yml:ro", "${PYTIKV_LOGS:-./logs}:/var/log/pytikv:ro"],
            "command": ["-config.file=/etc/promtail/promtail.yml"],
            "depends_on": ["loki"],
        }
    common = {"restart": "unless-stopped", "network_mode": "host"}
    return {
        "services": {name: {"image": _IMAGES[name], **common, **service} for name, service in services.items()},
        "volumes": {name: {} for name in services if name != "promtail"},
    }


def _readme(kit: Kit, logs: bool) -> str:
    lines = [f"- `targets/{name}.json`: {', '.join(found) or 'nobody yet'}" for name, found in _watched(kit)]
    log_text = (
        "Loki and Promtail take the JSON lines of `pytikv.logging.json()` from `./logs/*.log` (or `$PYTIKV_LOGS`).\n\n"
        if logs
        else ""
    )
    return _README.format(targets="\n".join(lines), logs=log_text)


def _watched(kit: Kit) -> list[tuple[str, tuple[str, ...]]]:
    return [("clients", kit.clients), ("tikv", kit.stores), ("pd", kit.pds)]


_README: Final = """\
# Watching TiKV and the programs that use it

Who is scraped (edit these files at any time, Prometheus reads them again by itself):

{targets}

## Start

1. Let each program serve its metrics: `client.serve_metrics(port=9464)`, with `pip install "pytikv[metrics]"`. For a
   look without a program: `pytikv demo --url tikv://... --serve-metrics 9464 --keep 600`.
2. With containers: `docker compose up -d`, then open http://127.0.0.1:3000 (Grafana; the dashboards are in the folder
   TiKV) and http://127.0.0.1:9090/alerts. The services use the host's network, so that 127.0.0.1 is this machine.
3. Without: `prometheus --config.file=prometheus.yml --web.listen-address=127.0.0.1:9090` in this directory, and import
   `dashboards/*.json` into a Grafana.

{logs}## Check

`promtool check config prometheus.yml` checks the configuration and the rules.
Programs that do not show up are listed, with the reason, at http://127.0.0.1:9090/targets.

## Alerts

Each alert has a severity (`page` or `ticket`), a summary, a description and advice. To be told, add an `alerting`
section with your Alertmanager to `prometheus.yml`. The error budget allows 1 of 1000 calls to fail; conflicts are no
failures.
"""
