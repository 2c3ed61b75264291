"""Processes that are killed, and what clients saw of it."""

import time

from host import STREAMS


def play(host):
    host.boot()
    host.install()
    status, said, _ = host.systemctl("start", "weir")
    if not host.check("start", status == 0, said):
        return
    the_generation(host)
    the_supervisor(host)
    with_a_broken_file(host)
    changed_environment(host)
    credentials(host)
    the_watchdog(host)
    host.traffic.stop()
    whole_again(host)


def the_generation(host):
    host.traffic.start()
    host.traffic.look_on()
    old = host.serving()
    host.traffic.forget()
    killed = time.monotonic()
    host.must(f"kill -9 {old}")
    host.wait("another generation", lambda: host.traffic.served_again(killed) is not None)
    after = host.traffic.served_again(killed)
    host.traffic.look_on()
    host.check("kill -9 of the generation that serves: another serves", True, f"first answer after {after:.3f} s")
    host.counted("kill -9 of the generation that serves", but="reset")
    host.check("the first process is the same, systemd restarted nothing", host.machine.show("NRestarts") == "0")


def restarts(host):
    return int(host.machine.show("NRestarts") or 0)


def restarted(host, main):
    host.wait("systemd to restart it", lambda: host.main_pid() not in (0, main) and host.state() == "active")
    host.wait("weir status", lambda: host.weir("status")[0] == 0)


def the_supervisor(host):
    traffic = host.traffic
    traffic.open_streams(STREAMS)
    main, serving = host.main_pid(), host.serving()
    traffic.forget()
    began = time.monotonic()
    host.must(f"kill -9 {main}")
    restarted(host, main)
    took = time.monotonic() - began
    traffic.look_on()
    alive = serving in host.generations()
    host.check(
        "kill -9 of the supervisor: the generation with its streams goes on and is adopted",
        alive,
        f"{took:.2f} s; {host.weir('status')[1]}",
    )
    host.counted("kill -9 of the supervisor")
    traffic.forget()
    host.configure("after-kill")
    status, said, _ = host.systemctl("reload", "weir")
    host.check("the next supervisor reloads", status == 0 and host.config_seen() == "after-kill", said)
    newest = host.serving()
    host.replace("b")
    status, said, _ = host.systemctl("reload", "weir")
    host.check("the next supervisor upgrades", status == 0 and host.serving() != newest, said)
    main = host.main_pid()
    host.must(f"kill -9 {main}")
    restarted(host, main)
    host.check(
        "kill -9 of the supervisor while one drains: that is adopted too", serving in host.generations(), host.weir("status")[1]
    )
    host.counted("reload and upgrade after it")


def with_a_broken_file(host):
    main, serving, before = host.main_pid(), host.serving(), restarts(host)
    host.traffic.forget()
    host.machine.write("/etc/weir/weir.yaml", "listen: [nonsense]\n")
    host.must(f"kill -9 {main}")
    host.wait("systemd to try it again", lambda: restarts(host) > before + 1 or host.main_pid() not in (0, main))
    host.traffic.look_on(1000)
    host.check(
        "kill -9 of the supervisor with a broken configuration on disk: it is served on",
        serving in host.generations() and host.traffic.ask_once() is None,
        f"{host.state()}, restarts {restarts(host)}",
    )
    host.counted("with a broken configuration on disk")
    host.configure("mended")
    restarted(host, main)
    host.check("once it is mended all is well", host.systemctl("reload", "weir")[0] == 0 and host.config_seen() == "mended")


def changed_environment(host):
    """The unit's settings reach the generations without a dropped stream: see systemd/README.md."""
    host.machine.write("/etc/weir/weir.env", "MARK=new\n")
    main = host.main_pid()
    host.traffic.forget()
    host.must("systemctl daemon-reload && systemctl kill --kill-who=main --signal=SIGKILL weir")
    restarted(host, main)
    mark = host.must(f"tr '\\0' '\\n' </proc/{host.serving()}/environ | grep MARK || true").strip()
    host.check("a changed environment is that of the generation that serves", mark == "MARK=new", mark)
    host.counted("a changed environment")


def credentials(host):
    """What systemd hands to the unit is there for generations of every supervisor."""
    host.machine.write("/etc/weir/mark", "secret-mark\n", 0o600)
    host.drop_in("LoadCredential=mark:/etc/weir/mark")
    main = host.main_pid()
    host.traffic.forget()
    host.must("systemctl kill --kill-who=main --signal=SIGKILL weir")
    restarted(host, main)
    host.configure("file:/run/credentials/weir.service/mark")
    status, said, _ = host.systemctl("reload", "weir")
    host.check("a credential is read", status == 0 and host.config_seen() == "secret-mark", f"{host.config_seen()} {said}")
    main = host.main_pid()
    host.must(f"kill -9 {main}")
    restarted(host, main)
    status, said, _ = host.systemctl("reload", "weir")
    held = status == 0 and host.config_seen() == "secret-mark"
    host.check("it is read after the supervisor was killed too", held, f"status {status} {said} {host.config_seen()}")
    host.configure("mended")
    host.drop_in()
    host.systemctl("reload", "weir")
    host.counted("credentials")


def the_watchdog(host):
    host.drop_in("WatchdogSec=2s")
    main = host.main_pid()
    host.traffic.forget()
    host.must("systemctl kill --kill-who=main --signal=SIGKILL weir")  # so that the setting is in force
    restarted(host, main)
    main = host.main_pid()
    for _ in range(5):
        fed = host.machine.show("WatchdogTimestampMonotonic")
        host.wait("the watchdog to be fed", lambda fed=fed: host.machine.show("WatchdogTimestampMonotonic") != fed)
    host.check("the watchdog is fed", host.machine.show("WatchdogUSec") == "2s" and host.state() == "active")
    began = time.monotonic()
    host.must(f"kill -STOP {main}")
    restarted(host, main)
    host.check("a supervisor that hangs is replaced", main not in host.machine.processes(), f"{time.monotonic() - began:.1f} s")
    host.counted("the watchdog")


def whole_again(host):
    host.streams_end_whole("through all of it")
    host.wait("the old generations to end", lambda: len(host.generations()) == 1)
    host.check("old generations are gone when nothing is open", True, host.weir("status")[1])
