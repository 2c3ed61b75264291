"""A small Debian with a systemd of its own, in a container made of the host's /usr: what is written there
goes to a layer that is thrown away. It has a network of its own with nothing but a loopback device, and
control groups of its own, so that many can run at once. Nothing of it outlives `stop`.
"""

import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import time

BASE = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / "weir-systemd"
PACKAGES = {
    "systemd-nspawn": "systemd-container",
    "systemctl": "systemd",
    "dbus-daemon": "dbus",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "ps": "procps",
    "openssl": "openssl",
}
BOOT_SECONDS = 60


def lacking():
    """Why no machine can be had here, or None."""
    if os.geteuid() != 0:
        return "it needs root"
    if missing := sorted({package for tool, package in PACKAGES.items() if not shutil.which(tool)}):
        return f"it needs apt-get install {' '.join(missing)}"
    if subprocess.run(["unshare", "-m", "-n", "-p", "-f", "true"], capture_output=True).returncode:
        return "namespaces can't be made here"
    BASE.mkdir(parents=True, exist_ok=True)
    for group in control_groups(f"probe-{os.getpid()}"):
        try:
            group.mkdir()
            group.rmdir()
        except OSError as error:
            return f"control groups can't be made here: {error}"
    if b"overlay" not in pathlib.Path("/proc/filesystems").read_bytes():
        return "the kernel has no overlayfs"
    return None


def control_groups(name):
    """Where the machine's own control groups are, in each hierarchy that systemd uses."""
    at = pathlib.Path("/sys/fs/cgroup")
    groups = []
    for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            root = at / "unified" if (at / "unified").is_dir() else at
        elif controllers == "name=systemd":
            root = at / "systemd"
        else:
            continue
        groups.append(root / path.lstrip("/") / name)
    return groups


class Machine:
    def __init__(self, kind):
        sweep()
        self.name = f"weir-{kind}-{os.getpid()}"
        self.folder = BASE / self.name
        self.root = self.folder / "root"
        self.nspawn = self.leader = None
        skeleton(self.root, self.name)

    def boot(self):
        """Seconds that it took until all units ran."""
        began = time.monotonic()
        groups = control_groups(self.name)
        upper = self.folder / "usr"
        upper.mkdir()

        def enter():
            for group in groups:
                group.mkdir(parents=True, exist_ok=True)
                (group / "cgroup.procs").write_text(str(os.getpid()))
            # Whatever happens to the tests, the container doesn't stay.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)

        with open(self.folder / "console", "wb") as console:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "-D", self.root, f"--overlay=/usr:{upper}:/usr", "-M", self.name, "--register=no",
                 "--keep-unit", "--console=read-only", "--private-network", "--link-journal=no", "-b"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, preexec_fn=enter,
                env={**os.environ, "UNIFIED_CGROUP_HIERARCHY": "1"},
            )  # fmt: skip
        wait_until("systemd to start", self.find_leader, BOOT_SECONDS, self.nspawn.poll)
        state = self.run("systemctl", "is-system-running", "--wait", seconds=BOOT_SECONDS).stdout.strip()
        if state != "running":
            raise Failed(f"the machine is {state}: {self.run('systemctl', '--failed', '--no-pager').stdout}")
        self.run("ip", "link", "set", "lo", "up")
        return time.monotonic() - began

    def find_leader(self):
        """Its PID 1, once that answers."""
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.nspawn.pid)], capture_output=True, text=True)
        for pid in children.stdout.split():
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                inside = [line.split()[-1] for line in status.splitlines() if line.startswith("NSpid")]
                if inside == ["1"] and pathlib.Path(f"/proc/{pid}/root/run/systemd/private").is_socket():
                    self.leader = int(pid)
                    return True
            except OSError:
                pass
        return False

    def command(self, *arguments):
        return ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--", *map(str, arguments)]

    def run(self, *arguments, seconds=30):
        """Runs it inside, as root; a command that takes too long has the status 124."""
        try:
            return subprocess.run(
                self.command(*arguments), capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode(errors="replace")
            return subprocess.CompletedProcess(late.cmd, 124, said, f"took more than {seconds} s")

    def start(self, *arguments):
        """Starts it inside, and leaves it running."""
        return subprocess.Popen(
            self.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def sh(self, script, seconds=30):
        return self.run("sh", "-c", script, seconds=seconds)

    def show(self, name, unit="weir.service"):
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def write(self, path, text, mode=0o644):
        """A file in the machine's own /etc, /opt, … (not /usr). It replaces the old one whole."""
        at = self.root / path.lstrip("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        new = at.with_name(at.name + ".new")
        new.write_text(text)
        new.chmod(mode)
        if at.exists():
            shutil.chown(new, at.stat().st_uid, at.stat().st_gid)
            new.chmod(at.stat().st_mode & 0o7777)
        new.rename(at)

    def journal(self, lines=12, *more):
        return self.run("journalctl", "-u", "weir", "--no-pager", "-o", "cat", "-n", lines, *more).stdout

    def processes(self, unit="weir.service"):
        """Process ids, inside, of the unit's control group."""
        group = pathlib.Path("/sys/fs/cgroup/system.slice") / unit / "cgroup.procs"
        return [int(pid) for pid in self.sh(f"cat {group} 2>/dev/null").stdout.split()]

    def stop(self):
        if self.nspawn and self.nspawn.poll() is None:
            if self.leader:
                self.run("systemctl", "kill", "--kill-who=all", "--signal=SIGKILL", "weir.service")
                self.run("systemctl", "--no-block", "poweroff")
            else:
                self.nspawn.terminate()
            try:
                self.nspawn.wait(15)
            except subprocess.TimeoutExpired:
                self.nspawn.kill()
                self.nspawn.wait()
        clear(self.name)


class Failed(Exception):
    """The machine or something in it didn't do what is needed to go on."""


def wait_until(what, done, seconds, over=lambda: None):
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s for {what}")
        if over() is not None:
            raise Failed(f"it ended while waiting for {what}")
        time.sleep(0.02)


def skeleton(root, name):
    """All but /usr, as small as a Debian can be."""
    for folder in ("usr", "etc/systemd/system", "var/log", "var/lib", "run", "tmp", "proc", "sys", "dev", "root", "opt"):
        (root / folder).mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    etc = root / "etc"
    for file in ("passwd", "group", "shadow", "gshadow", "ld.so.cache", "os-release", "debian_version", "login.defs"):
        if (pathlib.Path("/etc") / file).exists():
            shutil.copy(f"/etc/{file}", etc / file)
    for folder in ("pam.d", "dbus-1", "alternatives", "ssl", "security", "dpkg"):
        if (pathlib.Path("/etc") / folder).is_dir():
            shutil.copytree(f"/etc/{folder}", etc / folder, symlinks=True)
    for account in ("passwd", "group", "shadow", "gshadow"):
        lines = (etc / account).read_text().splitlines(keepends=True)
        (etc / account).write_text("".join(line for line in lines if not line.startswith("weir:")))
    (etc / "nsswitch.conf").write_text("passwd: files systemd\ngroup: files systemd\nshadow: files\nhosts: files\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    (etc / "hostname").write_text(f"{name}\n")
    (etc / "machine-id").write_text(pathlib.Path("/proc/sys/kernel/random/uuid").read_text().replace("-", ""))
    (etc / "systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for unit in ("console-getty", "systemd-logind", "systemd-firstboot", "e2scrub_reap", "apt-daily", "getty@tty1"):
        (etc / f"systemd/system/{unit}.service").symlink_to("/dev/null")
    (etc / "systemd/journald.conf").write_text("[Journal]\nStorage=volatile\nRateLimitBurst=0\n")


def clear(name):
    """Removes what a machine of this name left."""
    for group in control_groups(name):
        for folder in sorted(group.glob("**/"), key=lambda it: -len(it.parts)):
            try:
                folder.rmdir()
            except OSError:
                pass
    shutil.rmtree(f"/run/systemd/nspawn/propagate/{name}", ignore_errors=True)
    shutil.rmtree(BASE / name, ignore_errors=True)


def sweep():
    """Removes what machines left whose tests were killed."""
    for folder in BASE.glob("weir-*-*"):
        if not pathlib.Path(f"/proc/{folder.name.rpartition('-')[2]}").exists():
            clear(folder.name)
