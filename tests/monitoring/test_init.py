"""`pytikv monitoring`: what it writes, that it does not overwrite, how it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import pytikv
from pytikv.cli.app import app
from pytikv.monitoring.kit import BOARDS, Kit, files, write
from pytikv.testing.server import ServerProcess


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["monitoring", *words], env={"COLUMNS": "200"})


def test_init_writes_everything(tmp_path: Path) -> None:
    watch = tmp_path / "watch"
    done = run(
        "init", str(watch), "--target", "app:9464", "--target", "[::1]:9465", "--store", "s:20180", "--pd", "p:2379"
    )
    assert done.exit_code == 0, done.stderr
    written = {str(path.relative_to(watch)) for path in watch.rglob("*") if path.is_file()}
    assert set(files(Kit())) == written
    assert {str(watch / name) for name in written} == set(done.stdout.split())
    assert json.loads((watch / "targets/clients.json").read_text()) == [
        {"targets": ["app:9464", "[::1]:9465"], "labels": {"role": "client"}}
    ]
    assert json.loads((watch / "targets/tikv.json").read_text())[0]["targets"] == ["s:20180"]
    assert json.loads((watch / "targets/pd.json").read_text())[0]["targets"] == ["p:2379"]
    for board in BOARDS:
        assert json.loads((watch / f"dashboards/{board}.json").read_text())["uid"] == board
    assert "app:9464, [::1]:9465" in (watch / "README.md").read_text()
    assert "docker compose up" in done.stderr


def test_init_asks_pd_for_the_servers(tmp_path: Path) -> None:
    with ServerProcess() as server:
        done = run("init", str(tmp_path / "watch"), "--url", server.url, "--json")
        assert done.exit_code == 0, done.stderr
        stores = json.loads((tmp_path / "watch/targets/tikv.json").read_text())[0]["targets"]
        assert len(stores) == 1
        assert stores[0].startswith("127.0.0.1:")
        pds = json.loads((tmp_path / "watch/targets/pd.json").read_text())[0]["targets"]
        assert pds == [server.url.removeprefix("tikv://")]
    assert len(json.loads(done.stdout)["written"]) == len(files(Kit()))


def test_init_replaces_nothing_unless_forced(tmp_path: Path) -> None:
    assert run("init", str(tmp_path)).exit_code == 0
    again = run("init", str(tmp_path))
    assert again.exit_code == 0, "what is the same is no conflict"
    assert again.stdout == ""
    mine = tmp_path / "prometheus.yml"
    mine.write_text("global: {}\n")
    (tmp_path / "README.md").unlink()
    refused = run("init", str(tmp_path), "--scrape-interval", "1s")
    assert refused.exit_code == 1
    assert str(mine) in refused.stderr
    assert "--force" in refused.stderr
    assert mine.read_text() == "global: {}\n"
    assert not (tmp_path / "README.md").exists(), "all or nothing"
    forced = run("init", str(tmp_path), "--force")
    assert forced.exit_code == 0
    assert set(forced.stdout.split()) == {str(mine), str(tmp_path / "README.md")}
    assert "scrape_interval" in mine.read_text()


@pytest.mark.parametrize("target", ["nowhere", "a:0", "a:70000", "a b:1", ":1", "http://a:1", 'a":1'])
def test_bad_targets_are_refused(tmp_path: Path, target: str) -> None:
    done = run("init", str(tmp_path / "watch"), "--target", target)
    assert done.exit_code == 2
    assert "HOST:PORT" in done.stderr
    assert not (tmp_path / "watch").exists()


def test_other_bad_input_is_refused(tmp_path: Path) -> None:
    done = run("init", str(tmp_path / "watch"), "--scrape-interval", "soon")
    assert done.exit_code == 2
    assert "15s" in done.stderr
    (tmp_path / "file").write_text("")
    done = run("init", str(tmp_path / "file"))
    assert done.exit_code == 1
    done = run("init", str(tmp_path / "watch"), "--url", "embedded://:memory:")
    assert done.exit_code == 1
    assert "no servers" in done.stderr


def test_write_names_a_directory_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileExistsError, match="/a"):
        write(tmp_path, {"a": "text"})


def test_kit_is_checked() -> None:
    with pytest.raises(pytikv.InvalidArgument, match="HOST:PORT"):
        files(Kit(clients=("x",)))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, files(Kit(stores=("s:1",), pds=("p:1",), scrape_interval="1s")))
    command = ["promtool", "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_and_provisioning_name_files_that_are_there(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    made = files(Kit())
    compose: dict[str, Any] = yaml.safe_load(made["compose.yml"])
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            known = source in compose["volumes"] or source == "./" or source.startswith("${")
            assert known or any(name.startswith(source.removeprefix("./")) for name in made), source
    sources = yaml.safe_load(made["grafana/provisioning/datasources/pytikv.yml"])["datasources"]
    assert sources[0]["url"] == "http://127.0.0.1:9090"
    folder = yaml.safe_load(made["grafana/provisioning/dashboards/pytikv.yml"])["providers"][0]["options"]["path"]
    assert any(folder in volume for volume in compose["services"]["grafana"]["volumes"])


def test_show() -> None:
    done = run("show")
    assert done.exit_code == 0
    assert "tikv_request_duration_seconds_bucket" in done.stdout
    assert "TikvBreakerOpen" in done.stdout
    records = [json.loads(line) for line in run("show", "--json").stdout.splitlines()]
    assert {record["dashboard"] for record in records if "dashboard" in record} == set(BOARDS)
    assert all(record["advice"] for record in records if "alert" in record)
