"""A machine with weir installed as systemd/README.md says, a model server beside it, and what the checks ask
of both.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

from machine import Failed, Machine, wait_until
from traffic import Traffic

HERE = pathlib.Path(__file__).parent
PROJECT = HERE.parent.parent
MODEL_PORT = 9000
ROUNDS = int(os.environ.get("ROUNDS", "3"))
STREAMS = int(os.environ.get("STREAMS", "20"))

CONFIGURATION = """
listen:
  - 127.0.0.1:80
  - address: 127.0.0.1:443
    tls: {certificates: [{cert: /etc/weir/tls/weir.pem, key: /etc/weir/tls/weir.key}]}
admin: {address: 127.0.0.1:9900}
model_routes: {m: http://127.0.0.1:9000/v1}
target_map: {/v1/realtime: http://127.0.0.1:9000}
headers: {response: {set: {x-config: "NAME"}}}
upgrade: {ready: 40s, probation: 1s, generations: 64}
logging: {file: {path: /var/log/weir/access.log}}
"""


class Host:
    def __init__(self, name, program):
        self.began, self.failures = time.monotonic(), 0
        self.program = program
        self.machine = Machine(name)
        self.traffic = self.model = None

    # --- how it is told

    def check(self, what, holds, told=""):
        told = str(told).strip().replace("\n", " | ")
        print(
            f"[{time.monotonic() - self.began:6.1f}] {'ok  ' if holds else 'FAIL'} {what}" + (f" -- {told}" if told else ""),
            flush=True,
        )
        if not holds:
            self.failures += 1
            if self.machine.leader:
                print("       " + self.machine.journal().replace("\n", "\n       ").rstrip(), flush=True)
        return holds

    # --- how it begins and ends

    def boot(self):
        seconds = self.machine.boot()
        version = self.machine.run("systemctl", "--version").stdout.splitlines()[0]
        print(f"       booted in {seconds:.1f} s: {version}")
        self.model = subprocess.Popen(
            ["nsenter", "-t", str(self.machine.leader), "-n", sys.executable, HERE / "model.py", str(MODEL_PORT)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        if self.model.stdout.readline() != "ready\n":
            raise Failed("the model server doesn't start")
        self.traffic = Traffic(self.machine.leader)

    def install(self):
        """As systemd/README.md installs from source, with two equal programs to choose from."""
        opt = self.machine.root / "opt"
        for folder in ("systemd", "conf"):
            shutil.copytree(PROJECT / folder, opt / "src" / folder)
        slim(self.program, opt / "weir")
        self.must(
            "cd /opt/src && install -m 755 /opt/weir /usr/bin/weir-a && cp /usr/bin/weir-a /usr/bin/weir-b && ln /usr/bin/weir-a /usr/bin/weir"
            " && install -m 644 systemd/weir.service systemd/weir.socket /etc/systemd/system/"
            " && install -D -m 644 systemd/weir.sysusers /usr/lib/sysusers.d/weir.conf && systemd-sysusers weir.conf"
            " && install -D -m 644 systemd/weir.tmpfiles /usr/lib/tmpfiles.d/weir.conf && systemd-tmpfiles --create weir.conf"
        )
        self.configure("1")
        self.certificate()
        self.must("systemd-tmpfiles --create weir.conf && systemctl daemon-reload")

    def certificate(self):
        self.must(
            "cd /etc/weir/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=weir.test"
            " -addext subjectAltName=DNS:weir.test -keyout weir.key -out weir.pem && chgrp weir weir.key && chmod 640 weir.key"
        )

    def close(self):
        if self.traffic:
            self.traffic.close()
        if self.model:
            self.model.kill()
            self.model.wait()
        self.machine.stop()

    # --- what is done

    def must(self, script, seconds=60):
        done = self.machine.sh(script, seconds)
        if done.returncode:
            raise Failed(f"{script}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def systemctl(self, *words, seconds=30):
        """(status, what was said, seconds)"""
        began = time.monotonic()
        done = self.machine.run("systemctl", *words, seconds=seconds)
        return done.returncode, (done.stdout + done.stderr).strip(), time.monotonic() - began

    def weir(self, *words, seconds=30):
        done = self.machine.run("weir", *words, seconds=seconds)
        return done.returncode, (done.stdout + done.stderr).strip()

    def configure(self, name, text=CONFIGURATION):
        """What the file says; `name` is seen in each answer's `x-config`."""
        self.machine.write("/etc/weir/weir.yaml", text.replace("NAME", name))

    def replace(self, which):
        """Puts the program in place as a package manager does: a new file is renamed over the old one."""
        self.must(f"ln -f /usr/bin/weir-{which} /usr/bin/weir.new && mv -fT /usr/bin/weir.new /usr/bin/weir")

    def replace_by(self, script, mode="755"):
        """A program that is no good one; `$REAL` is the good one."""
        self.machine.write("/opt/bad", script.replace("$REAL", "/usr/bin/weir-a"))
        self.must(f"install -m {mode} /opt/bad /usr/bin/weir.new && mv -fT /usr/bin/weir.new /usr/bin/weir")

    def drop_in(self, *lines):
        """Settings of the unit beside the real ones; none: the real ones again."""
        path = "/etc/systemd/system/weir.service.d/test.conf"
        if lines:
            self.machine.write(path, "\n".join(["[Service]", *lines, ""]))
        else:
            self.must(f"rm -f {path}")
        self.must("systemctl daemon-reload")

    # --- what is seen

    def main_pid(self):
        return int(self.machine.show("MainPID") or 0)

    def state(self):
        return self.machine.show("ActiveState")

    def generations(self):
        """Processes that serve, or finish what they have; the newest last."""
        found = []
        for pid in self.machine.processes():
            words = self.machine.run("cat", f"/proc/{pid}/cmdline").stdout.split("\0")
            if "--generation" in words and pathlib.Path(words[0]).name.startswith("weir"):
                found.append((int(words[words.index("--generation") + 1]), pid))
        return [pid for _, pid in sorted(found)]

    def serving(self):
        """The newest generation's process."""
        return (self.generations() or [0])[-1]

    def config_seen(self):
        """Of which configuration an answer is, on a new connection."""
        return self.traffic.get("/v1/models")[0].get("x-config")

    def descriptors(self, pid):
        return len(self.must(f"ls /proc/{pid}/fd").split())

    def memory_kib(self, pid):
        return int(self.must(f"awk '/^VmRSS/{{print $2}}' /proc/{pid}/status").strip() or 0)

    def counted(self, what, but=None):
        """One check on all that the clients saw since `forget`; failures of the kind `but` are only told."""
        failed = sum(count for kind, count in self.traffic.failed.items() if kind != but)
        served = sum(self.traffic.done.values()) > 0
        name = f"{what}: " + (f"nothing but {but}s for clients" if but else "no client noticed")
        return self.check(name, failed == 0 and served, self.traffic.figures())

    def streams_end_whole(self, what):
        whole, broken, events = self.traffic.finish_streams(MODEL_PORT)
        return self.check(
            f"{what}: every stream came whole",
            broken == 0 and whole > 0,
            f"{whole} whole, {broken} broken, {events} events in their order; {self.traffic.figures()}",
        )

    def wait(self, what, done, seconds=20):
        wait_until(what, done, seconds)

    def happens(self, what, done, seconds=20):
        """A check that it is so, soon."""
        began = time.monotonic()
        try:
            wait_until(what, done, seconds)
        except Failed as late:
            return self.check(what, False, late)
        return self.check(what, True, f"{time.monotonic() - began:.2f} s")


def slim(program, to):
    """A copy without debugging information, where that can be had: it is written many times."""
    if not shutil.which("strip") or subprocess.run(["strip", "-o", to, program]).returncode:
        shutil.copy(program, to)
