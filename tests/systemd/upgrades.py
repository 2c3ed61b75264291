"""Reloads and upgrades that succeed and that fail, all under the same load and the same open streams."""

import time

from host import CONFIGURATION, ROUNDS, STREAMS

# A new program that is good for all but to serve: `weir reload` and the next supervisor are the new program
# too.
GOOD_UNTIL_IT_SERVES = """#!/bin/sh
case "$*" in *--generation*) ;; *) exec $REAL "$@";; esac
"""
BAD_PROGRAMS = {
    "exits": GOOD_UNTIL_IT_SERVES + "echo 'this one is broken' >&2; exit 3\n",
    "hangs": GOOD_UNTIL_IT_SERVES + "exec sleep 1000\n",
    "crashes right after it was ready": GOOD_UNTIL_IT_SERVES
    + "(for i in $(seq 300); do $REAL status 2>&1 | grep -q probation && kill -9 $$ && break; done) >/dev/null 2>&1 &\n"
    + 'exec $REAL "$@"\n',
}
# Half a minute passes before it is given up: only in long runs.
HANGS_EARLY = """#!/bin/sh
case "$*" in *--plan*) exec sleep 1000;; *) exec $REAL "$@";; esac
"""
LONG_ROUNDS = 20


def play(host):
    host.boot()
    host.install()
    the_unit(host)
    status, said, seconds = host.systemctl("start", "weir")
    if not host.check("start", status == 0, said or f"{seconds:.2f} s"):
        return
    its_rights(host)
    traffic = host.traffic
    traffic.open_streams(STREAMS)
    traffic.open_socket()
    traffic.start()
    reloads(host)
    upgrades(host)
    bad_configurations(host)
    bad_upgrades(host)
    traffic.stop()
    frames, wrong = traffic.close_socket()
    host.check("a WebSocket lived through all of it", wrong is None and frames > 0, f"{frames} frames came back {wrong or ''}")
    host.streams_end_whole("through all of it")
    host.wait("the old generations to end", lambda: len(host.generations()) == 1)
    host.check("old generations are gone when nothing is open", True)


def the_unit(host):
    done = host.machine.run("systemd-analyze", "verify", "--man=no", "weir.service", "weir.socket")
    host.check("systemd-analyze verify is silent", done.returncode == 0 and not done.stdout + done.stderr, done.stderr)
    done = host.machine.run("systemd-analyze", "security", "--no-pager", "--threshold=20", "weir.service")
    host.check(
        "systemd-analyze security: 2.0 or less", done.returncode == 0, (done.stdout.strip().splitlines() or [done.stderr])[-1]
    )


def its_rights(host):
    pid = host.main_pid()
    told = host.must(f"awk '/^(Uid|CapEff|NoNewPrivs|Seccomp):/{{printf \"%s%s \", $1, $2}}' /proc/{pid}/status; id -u weir")
    fields = dict(field.split(":") for field in told.split()[:-1])
    right = (
        fields["Uid"] == told.split()[-1]
        and int(fields["CapEff"], 16) == 1 << 10
        and fields["NoNewPrivs"] == "1"
        and fields["Seccomp"] == "2"
    )
    host.check("it is nobody of importance, and may bind port 80", right, told)
    status, said = host.weir("status")
    host.check("weir status", status == 0, said)


def reloads(host):
    main = host.main_pid()
    host.traffic.forget()
    slowest, done = 0, 0
    for number in range(ROUNDS):
        host.configure(f"reload-{number}")
        status, said, seconds = host.systemctl("reload", "weir")
        slowest = max(slowest, seconds)
        seen = host.config_seen()
        if status == 0 and seen == f"reload-{number}":
            done += 1
        else:
            host.check(f"reload {number}", False, f"status {status} {said}, answers are of configuration {seen}")
    host.check(
        f"{ROUNDS} reloads, each live when systemctl came back", done == ROUNDS, f"{done} were; the slowest took {slowest:.2f} s"
    )
    host.check("the same first process", host.main_pid() == main)
    host.traffic.look_on()
    host.counted("reloads")


def upgrades(host):
    traffic = host.traffic
    main = host.main_pid()
    before = host.descriptors(main), host.memory_kib(main), host.machine.show("NFileDescriptorStore")
    _, session = traffic.resume()
    traffic.forget()
    slowest, done = 0, 0
    for number in range(ROUNDS):
        old = host.serving()
        host.replace("ab"[(number + 1) % 2])
        status, said, seconds = host.systemctl("reload", "weir")
        slowest = max(slowest, seconds)
        if status == 0 and host.serving() != old:
            done += 1
        else:
            host.check(f"upgrade {number}", False, f"status {status} {said}; generation {old} -> {host.serving()}")
    host.check(
        f"{ROUNDS} upgrades by replacing the program and systemctl reload",
        done == ROUNDS,
        f"{done} were; the slowest took {slowest:.2f} s",
    )
    resumed, _ = traffic.resume(session)
    host.check("a TLS session of before the first is resumed after the last", resumed)
    old = host.serving()
    status, said = host.weir("upgrade")
    host.check("weir upgrade", status == 0 and host.serving() != old, said)
    old = host.serving()
    host.must(f"kill -USR2 {main}")
    host.wait("SIGUSR2 to upgrade", lambda: host.serving() not in (0, old))
    host.wait("the upgrade to be over", lambda: "probation" not in host.weir("status")[1])
    host.check("SIGUSR2 upgrades", True)
    host.check("the same first process", host.main_pid() == main and host.machine.show("NRestarts") == "0")
    traffic.look_on()
    host.counted("upgrades")
    after = host.descriptors(main), host.memory_kib(main), host.machine.show("NFileDescriptorStore")
    host.check("descriptors kept by systemd: as many as before", after[2] == before[2], f"{before[2]} -> {after[2]}")
    print(
        f"       the first process: descriptors {before[0]} -> {after[0]}, memory {before[1]} -> {after[1]} KiB; {len(host.generations())} generations live"
    )


def refuses(host, what, *words, by=("systemctl", "reload", "weir"), resets=False):
    """It must fail, say why, and change nothing. `resets`: requests that the new program had taken die with it."""
    old, seen, main = host.serving(), host.config_seen(), host.main_pid()
    host.traffic.forget()
    began = time.monotonic()
    done = host.machine.run(*by, seconds=60)
    seconds = time.monotonic() - began
    told = (host.machine.journal(4) if by[0] == "systemctl" else done.stdout + done.stderr).strip()
    status = done.returncode
    host.check(f"{what}: {' '.join(by)} fails", status not in (0, 124), f"status {status} in {seconds:.2f} s; {told}")
    unchanged = old in host.generations() and host.config_seen() == seen and host.main_pid() == main
    host.check(
        f"{what}: the old generation serves", unchanged and host.state() == "active", f"{host.config_seen()} {host.state()}"
    )
    if words:
        host.check(f"{what}: it says why", all(word in told for word in words), told)
    host.traffic.look_on()
    host.counted(what, but="reset" if resets else None)


def bad_configurations(host):
    host.configure("bad", CONFIGURATION + "limits: {connecions: 3}\n")
    refuses(host, "a configuration with a mistake", "connecions")
    host.configure("bad", CONFIGURATION.replace("weir.pem", "none.pem"))
    refuses(host, "a certificate that isn't there", "none.pem")
    host.configure("good")
    status, said, _ = host.systemctl("reload", "weir")
    host.check("a good configuration after bad ones", status == 0 and host.config_seen() == "good", said)


def bad_upgrades(host):
    # A hang is found soon, and the crash comes within the probation on a slow machine too.
    host.configure("good", CONFIGURATION.replace("ready: 40s, probation: 1s", "ready: 10s, probation: 6s"))
    status, said, _ = host.systemctl("reload", "weir")
    host.check("other rules for upgrades", status == 0, said)
    bad = dict(BAD_PROGRAMS)
    if ROUNDS >= LONG_ROUNDS:
        bad["hangs when it is asked for its plan"] = HANGS_EARLY
    for what, script in bad.items():
        host.replace_by(script)
        refuses(host, f"a program that {what}", resets="crashes" in what)
    # Here `weir reload` can't even be started: it is the new program. The good one asks in its place.
    asked = "/usr/bin/weir-a", "upgrade"
    host.replace_by("this is text\n")
    refuses(host, "a program that is none")
    refuses(host, "a program that is none", "/usr/bin/weir", by=asked)
    host.replace_by("#!/bin/sh\nexit 0\n", mode="644")
    refuses(host, "a program that is not executable")
    refuses(host, "a program that is not executable", "/usr/bin/weir", by=asked)
    host.must("rm /usr/bin/weir")
    refuses(host, "a program that is gone", "/usr/bin/weir", by=asked)
    host.replace("b")
    host.traffic.forget()
    status, said, _ = host.systemctl("reload", "weir")
    host.check("a good program after bad ones", status == 0, said)
    host.traffic.look_on()
    host.counted("a good program after bad ones")
