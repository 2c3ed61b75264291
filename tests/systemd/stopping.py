"""The ways to stop weir, restarts, and ports that systemd holds."""

import time

from host import CONFIGURATION, STREAMS


def play(host):
    host.boot()
    host.install()
    drains(host)
    a_second_term(host)
    too_late(host)
    restart(host)
    never_gives_up(host)
    ports_of_systemd(host)


def begin(host):
    status, said, _ = host.systemctl("start", "weir")
    host.check("start", status == 0, said)
    host.traffic.forget()
    host.traffic.open_streams(STREAMS)


def nothing_left(host, what):
    host.wait("the stop", lambda: host.state() in ("inactive", "failed"))
    left = host.machine.processes()
    host.check(f"{what}: no process is left", not left, left or f"{host.state()}, result {host.machine.show('Result')}")


def drains(host):
    begin(host)
    stop = host.machine.start("systemctl", "stop", "weir")
    host.wait("the stop to begin", lambda: host.state() == "deactivating")
    refused = lambda: "refused" in (host.traffic.ask_once() or "").lower()  # noqa: E731
    host.happens("systemctl stop: new connections are refused, not left waiting", refused, 6)
    events = host.traffic.events()
    host.wait("further events", lambda: host.traffic.events() >= events + 3 * STREAMS)
    host.check("systemctl stop waits while streams go on", stop.poll() is None)
    host.streams_end_whole("systemctl stop")
    stop.wait(20)
    host.check(
        "systemctl stop: success",
        (host.state(), host.machine.show("Result")) == ("inactive", "success"),
        host.machine.show("Result"),
    )
    nothing_left(host, "systemctl stop")


def a_second_term(host):
    begin(host)
    stop = host.machine.start("systemctl", "stop", "weir")
    host.wait("the stop to begin", lambda: host.state() == "deactivating")
    began = time.monotonic()
    host.must("systemctl kill weir")
    stop.wait(20)
    host.check("systemctl kill during a stop ends it at once", True, f"{time.monotonic() - began:.2f} s")
    nothing_left(host, "a second SIGTERM")
    host.traffic.finish_streams(9000)
    host.systemctl("reset-failed", "weir")


def too_late(host):
    """A supervisor that hangs, told to stop: after TimeoutStopSec nothing may live."""
    host.drop_in("TimeoutStopSec=2s")
    begin(host)
    host.must(f"kill -STOP {host.main_pid()}")
    host.systemctl("stop", "weir")
    nothing_left(host, "a stop that takes too long")
    host.traffic.finish_streams(9000)
    host.drop_in()
    host.systemctl("reset-failed", "weir")


def restart(host):
    status, said, _ = host.systemctl("start", "weir")
    main = host.main_pid()
    host.traffic.start()
    host.traffic.look_on()
    host.traffic.forget()
    status, said, seconds = host.systemctl("restart", "weir")
    host.traffic.look_on()
    host.traffic.stop()
    host.check(
        "systemctl restart without open streams",
        status == 0 and host.main_pid() != main,
        f"{seconds:.2f} s, the port was closed meanwhile: {host.traffic.figures()} {said}",
    )
    host.systemctl("stop", "weir")


def never_gives_up(host):
    host.machine.write("/etc/weir/weir.yaml", "listen: [nonsense]\n")
    status, said, _ = host.systemctl("start", "weir")
    host.check("start with a mistake in the configuration fails", status != 0, said)
    host.check("the journal says which", "nonsense" in host.machine.journal(10), host.machine.journal(2))
    host.wait("ten tries", lambda: int(host.machine.show("NRestarts") or 0) >= 10)
    host.configure("mended")
    host.wait("the next try", lambda: host.state() == "active")
    host.check(
        "systemd goes on trying, and the mended configuration serves",
        host.config_seen() == "mended",
        f"after {host.machine.show('NRestarts')} tries",
    )
    host.systemctl("stop", "weir")


def ports_of_systemd(host):
    """weir.socket: systemd holds the port while weir is not there."""
    host.must("sed -i s/8080/81/ /etc/systemd/system/weir.socket && systemctl daemon-reload")
    host.configure("socket", CONFIGURATION.replace("127.0.0.1:80\n", "0.0.0.0:81\n"))
    status, said, _ = host.systemctl("start", "weir.socket")
    host.check("weir.socket listens, weir isn't started", status == 0 and host.state() == "inactive", said)
    host.traffic.port = 81
    wrong = host.traffic.ask_once()
    host.wait("weir to have started", lambda: host.state() == "active")
    host.check("the first connection starts it and is answered", wrong is None, wrong)
    host.traffic.start(tls=0)
    host.traffic.look_on()
    host.traffic.forget()
    status, said, seconds = host.systemctl("restart", "weir")
    host.traffic.look_on()
    host.traffic.stop()
    host.check(
        "systemctl restart behind weir.socket: nothing refused",
        status == 0 and host.traffic.failed["refused"] == 0,
        f"{seconds:.2f} s; {host.traffic.figures()} {said}",
    )
    host.systemctl("stop", "weir.socket", "weir")
