"""The Debian package: installed on a fresh host, upgraded under load with streams open, removed, purged."""

import os
import pathlib
import shutil
import subprocess

from host import CONFIGURATION, PROJECT, STREAMS, slim
from machine import Failed


def play(host):
    if not (tool := shutil.which(os.environ.get("DEB_TOOL", "cargo-deb"))):
        print("       not tried: it needs cargo install cargo-deb --locked, or DEB_TOOL")
        return
    build(host, tool)
    know_packages(host.machine.root)
    host.boot()
    fresh(host)
    newer(host)
    newer_but_refused(host)
    gone(host)


def build(host, tool):
    """Two packages of the same program, one newer than the other."""
    target = host.machine.folder / "target"
    (target / "release").mkdir(parents=True)
    slim(host.program, target / "release" / "weir")
    for version in ("1.0.0-1", "1.0.0-2", "1.0.0-3"):
        to = host.machine.root / "opt" / f"weir_{version}.deb"
        done = subprocess.run(
            [tool, "--no-build", "--no-strip", "--fast", "--quiet", "--manifest-path", PROJECT / "Cargo.toml",
             "--deb-version", version, "--output", to],
            env={**os.environ, "CARGO_TARGET_DIR": str(target)}, cwd=PROJECT, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{tool}: {done.stdout}{done.stderr}")
    shutil.rmtree(target)


def know_packages(root):
    """The container's apt knows what the host's knows: its /usr is the host's."""
    for folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt", "etc/apt/apt.conf.d"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copytree("/var/lib/dpkg", root / "var/lib/dpkg", symlinks=True)
    for folder in ("deb-systemd-helper-enabled", "deb-systemd-user-helper-enabled"):
        (root / "var/lib/systemd" / folder).mkdir(parents=True, exist_ok=True)
    pathlib.Path(root / "etc/apt/apt.conf.d/test").write_text('APT::Sandbox::User "root";\n')


def apt(host, *words):
    done = host.machine.run(
        "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-y", *words, seconds=120
    )
    # What is said about lists that were never fetched says nothing about weir.
    said = [line for line in (done.stdout + done.stderr).splitlines() if "weir" in line]
    return done.returncode, "\n".join(said[-4:] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()[-8:])


def fresh(host):
    # Where the host is a container itself, this file forbids packages to start services.
    host.must("rm -f /usr/sbin/policy-rc.d")
    status, said = apt(host, "install", "/opt/weir_1.0.0-1.deb")
    host.check("apt install on a fresh host", status == 0, said)
    host.check(
        "the service runs and starts at boot",
        (host.state(), host.machine.show("UnitFileState")) == ("active", "enabled"),
        f"{host.state()} {host.machine.show('UnitFileState')}",
    )
    answer = host.traffic.get("/healthz", 8080)[1].decode()
    host.check("it answers with the minimal configuration", answer.strip() == "OK", answer)
    done = host.machine.run("dpkg", "--verify", "weir")
    host.check("every file is as packaged", done.returncode == 0 and not done.stdout, done.stdout)
    host.check(
        "the configuration is a conffile that only root writes",
        host.must("stat -c '%U:%G %a' /etc/weir/weir.yaml").strip() == "root:weir 640"
        and "/etc/weir/weir.yaml" in host.must("cat /var/lib/dpkg/info/weir.conffiles"),
    )
    host.certificate()
    host.configure("packaged")
    status, said, _ = host.systemctl("reload", "weir")
    host.check("an edited configuration is reloaded", status == 0 and host.config_seen() == "packaged", said)


def newer(host):
    traffic, main, serving = host.traffic, host.main_pid(), host.serving()
    traffic.open_streams(STREAMS)
    traffic.start()
    status, said = apt(host, "install", "/opt/weir_1.0.0-2.deb")
    host.check("apt install of a newer package", status == 0 and "1.0.0-2" in host.must("dpkg-query -W weir"), said)
    host.check(
        "another generation serves under the same first process",
        host.serving() != serving and host.main_pid() == main,
        f"{serving} -> {host.serving()}",
    )
    host.check("the edited configuration was kept", host.config_seen() == "packaged")
    traffic.stop()
    host.counted("a newer package")
    host.streams_end_whole("a newer package")


def newer_but_refused(host):
    host.configure("bad", CONFIGURATION + "limits: {connecions: 3}\n")
    serving = host.serving()
    host.traffic.open_streams(1)
    status, said = apt(host, "install", "/opt/weir_1.0.0-3.deb")
    host.check(
        "a newer package that can't serve: dpkg is content, the old one serves, and it is said",
        status == 0 and serving in host.generations() and "does NOT serve" in said,
        said,
    )
    host.streams_end_whole("a newer package that can't serve")
    host.configure("mended")
    status, said, _ = host.systemctl("reload", "weir")
    host.check("mended and reloaded, the newer one serves", status == 0 and host.serving() != serving, said)


def gone(host):
    status, said = apt(host, "remove", "weir")
    host.check("apt remove stops it", status == 0 and host.state() == "inactive" and not host.machine.processes(), said)
    host.check("its configuration is still there", (host.machine.root / "etc/weir/weir.yaml").exists())
    status, said = apt(host, "purge", "weir")
    left = host.must(
        "ls -d /etc/weir/weir.yaml /var/lib/weir /var/log/weir /lib/systemd/system/weir.service /usr/bin/weir 2>/dev/null || true"
    )
    host.check("apt purge takes all that weir wrote", status == 0 and not left, left or said)
