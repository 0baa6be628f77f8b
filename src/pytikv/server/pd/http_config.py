"""The page ``/pd/api/v1/config``: PD's configuration in PD's shape.

Only what this PD has is shown; a tool that reads another field finds it missing rather than made up. Booleans of the
schedule and the replication are strings, as PD's are. Source: a recorded answer of a real PD.
"""

from __future__ import annotations

from typing import Any

from pytikv.server.pd.members import VERSION
from pytikv.server.pd.server import PdServer
from pytikv.server.pd.tso import WINDOW_MS

__all__ = ["pd_config"]


def pd_config(pd: PdServer) -> dict[str, Any]:
    """Return the configuration of `pd`."""
    config = pd.config
    client_urls, peer_urls = ",".join(config.client_urls), ",".join(config.peer_urls)
    return {
        "client-urls": client_urls,
        "peer-urls": peer_urls,
        "advertise-client-urls": client_urls,
        "advertise-peer-urls": peer_urls,
        "name": config.name,
        "data-dir": config.data_dir,
        "force-new-cluster": False,
        "enable-grpc-gateway": False,
        "initial-cluster": ",".join(f"{config.name}={url}" for url in config.peer_urls),
        "initial-cluster-state": "new",
        "join": "",
        "lease": 5,
        "log": {"level": "info", "format": "text"},
        "tso-save-interval": f"{WINDOW_MS // 1000}s",
        "tso-update-physical-interval": "50ms",
        "schedule": _schedule(pd),
        "replication": {
            "max-replicas": config.max_replicas,
            "location-labels": "",
            "strictly-match-label": "false",
            "enable-placement-rules": "true",
            "enable-placement-rules-cache": "false",
            "isolation-level": "",
        },
        "pd-server": {"use-region-storage": "true", "key-type": "table", "dashboard-address": "none"},
        "cluster-version": VERSION,
        "labels": {},
        "security": {"redact-info-log": False},
        "replication-mode": {"replication-mode": "majority"},
        "keyspace": {"pre-alloc": list(config.keyspaces) or None, "wait-region-split": False},
    }


def _schedule(pd: PdServer) -> dict[str, Any]:
    limits = {str(store.meta.id): {"add-peer": 15, "remove-peer": 15} for store in pd.stores.all()}
    return {
        "max-store-down-time": "30m0s",
        # Nothing is scheduled here: every limit is what it amounts to.
        "leader-schedule-limit": 0,
        "region-schedule-limit": 0,
        "replica-schedule-limit": 0,
        "merge-schedule-limit": 0,
        "hot-region-schedule-limit": 0,
        "store-limit": limits,
        "enable-joint-consensus": "true",
        "schedulers-v2": [],
    }
