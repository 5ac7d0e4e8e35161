"""What docker/ says holds together: the compose file, the Dockerfile, and the commands in both."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml
from compose_spec import PyCompose

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docker/compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
Stage = dict[str, list[str]]


@cache
def stages() -> dict[str, Stage]:
    """Of each stage the values of its instructions, those of the stages below it included; the last one counts."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "docker/Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {"": {}}
    name = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, value = line.partition(" ")
        if instruction == "FROM":
            below, _, name = value.partition(" AS ")
            found[name] = {key: list(values) for key, values in found.get(below, found[""]).items()}
        else:
            found[name].setdefault(instruction, []).append(value.strip())
    return found


def argv(stage: Stage, instruction: str) -> list[str]:
    """The words of CMD, ENTRYPOINT or HEALTHCHECK in its exec form."""
    words: list[str] = json.loads(stage[instruction][-1].partition("[")[1] + stage[instruction][-1].partition("[")[2])
    return words


def of(service: str) -> Stage:
    return stages()[SERVICES[service]["build"]["target"]]


def valid(text: str) -> None:
    # The validator knows no merge keys, PyYAML does.
    PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(text))).validate()


def test_the_compose_file_keeps_the_specification() -> None:
    valid(TEXT)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("read_only:", "readonly:"),
        ("service_healthy", "service_fine"),
        ("memory: 3g", "memory: much"),
        ("data:/", "d:/"),
    ],
)
def test_a_compose_file_that_does_not_is_refused(right: str, wrong: str) -> None:
    assert right in TEXT
    with pytest.raises(ValueError, match=r"."):
        valid(TEXT.replace(right, wrong))


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert "privileged" not in service
    assert "network_mode" not in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "data:/data" in service["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_images_run_as_a_user_and_tell_their_health(name: str) -> None:
    user, group = of(name)["USER"][-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert "user" not in SERVICES[name]
    assert shutil.which(argv(of(name), "HEALTHCHECK")[0]) or argv(of(name), "HEALTHCHECK")[0] == "health.py"
    assert "healthcheck" not in SERVICES[name]  # the image's own holds


def test_everything_is_pinned() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, service in SERVICES.items():
        assert service["image"] == f"eigenmill/{name}:{version}"
    (base,) = stages()[""]["ARG"]
    assert re.fullmatch(r"BASE=python:3\.1[123]\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)
    installs = [
        run for stage in stages().values() for run in stage.get("RUN", []) if re.search(r"\bpip .* install --", run)
    ]
    assert installs
    assert all("--constraint constraints.txt" in run for run in installs)


def test_what_is_copied_is_in_the_context() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / path).exists() for path in kept)
    needed = {"constraints.txt", "docker/health.py", "pyproject.toml"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed |= {project["project"]["readme"], *project["project"]["license-files"]}
    (package,) = (ROOT / path for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    links = [path for path in package.iterdir() if path.is_symlink()]
    needed |= {path.resolve().relative_to(ROOT).as_posix() for path in links} | {package.parent.name}
    assert links
    assert needed <= set(kept)


@pytest.mark.parametrize("name", [name for name in SERVICES if name.startswith("dask")])
def test_dask_knows_the_options(name: str) -> None:
    program, command, *options = argv(of(name), "CMD")
    run = subprocess.run([Path(sys.executable).parent / program, command, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(option in run.stdout for option in options if option.startswith("--"))


@pytest.mark.parametrize("name", [name for name in SERVICES if name.startswith("spark")])
def test_spark_has_the_classes(name: str) -> None:
    home = Path(pyspark.__file__).parent
    command = " ".join(argv(of(name), "CMD"))
    (class_,) = re.findall(r"spark-class (\S+)", command)
    assert (home / "bin/spark-class").exists()
    (core,) = home.glob("jars/spark-core_*.jar")
    with zipfile.ZipFile(core) as jar:
        assert f"{class_.replace('.', '/')}.class" in jar.namelist()
    assert all(f"{variable}=" in of(name)["ENV"][-1] for variable in re.findall(r"\$(\w+)", command))


def test_the_job_is_the_command_line() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert argv(of("job"), "ENTRYPOINT")[0] in scripts


def test_addresses_are_those_of_services_and_ports_that_they_open() -> None:
    opened = {name: set(" ".join(of(name).get("EXPOSE", [])).split()) for name in SERVICES}
    addresses = re.findall(r"(?:tcp|spark)://([\w-]+):(\d+)", TEXT)
    assert len(addresses) >= 2
    assert all(port in opened[host] for host, port in addresses)
    for name, service in SERVICES.items():
        assert all(port.split(":")[-1] in opened[name] for port in service.get("ports", []))
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        asked = re.findall(r"http://127.0.0.1:(\d+)", " ".join(argv(of(name), "HEALTHCHECK")))
        assert set(asked) <= opened[name]


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 500)
        self.end_headers()
        self.wfile.write(b'{"status" : "ALIVE"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def health(url: str, pattern: str) -> int:
    return subprocess.run([ROOT / "docker/health.py", url, pattern], capture_output=True, check=False).returncode


def test_health_is_the_right_answer_and_nothing_else(server: str) -> None:
    pattern = argv(of("spark-master"), "HEALTHCHECK")[-1]
    assert health(f"{server}/health", pattern) == 0
    assert health(f"{server}/health", "STANDBY") != 0
    assert health(f"{server}/other", pattern) != 0
    assert health("http://127.0.0.1:1/health", pattern) != 0
