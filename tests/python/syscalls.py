"""Counts what a 1:1 message costs each daemon in system calls. Called by tests/syscalls.

Usage: syscalls.py TALKHUB_BINARY MESSAGES
"""

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import teamtalk_client
from teamtalk_client import WINDOWS, Client

PASSWORD = "talkhub-demo"
WARM_UP = 20


def free_base():
    """A base from which the ports of a small cluster are free, as far as a look can tell."""
    for base in range(20_000, 30_000, 500):
        try:
            for offset in (0, 1, 80, 90, 100, 101, 120):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
            return base
        except OSError:
            continue
    raise SystemExit("no free ports")


def counted(processes, work):
    """Runs `work` while strace counts, and returns {daemon: {call: count}}."""
    tracers = []
    for process in processes:
        report = tempfile.NamedTemporaryFile("r", prefix="strace")
        tracer = subprocess.Popen(
            ["strace", "-c", "-f", "-q", "-o", report.name, "-p", str(process["pid"])],
            stderr=subprocess.PIPE)
        tracers.append((process["name"], tracer, report))
    time.sleep(1)  # strace says nothing when it is attached, and attaches in much less.
    work()
    counts = {}
    for name, tracer, report in tracers:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        lines = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", report.read(), re.M)
        counts[name] = {call: int(count) for count, call in lines if call != "total"}
    return counts


def main(binary, messages):
    data = tempfile.TemporaryDirectory(prefix="syscalls")
    up = subprocess.Popen(
        [binary, "up", "--processes", "--json", "--data", data.name,
         "--port-base", str(free_base()), "--demo-users", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        cluster = json.loads(up.stdout.readline())
        first, second = teamtalk_client.two_gateways(cluster["login"])
        anna, ben = Client(first, WINDOWS), Client(second, WINDOWS)
        anna.log_in("u1", PASSWORD)
        ben.log_in("u2", PASSWORD)

        def talk(count):
            for number in range(count):
                anna.say(2, f"message {number}")
                ben.pushed(0x0301)

        talk(WARM_UP)
        time.sleep(11)  # A new route_server has its messages delivered twice at first.
        began = time.monotonic()
        busy = counted(cluster["processes"], lambda: talk(messages))
        took = time.monotonic() - began
        idle = counted(cluster["processes"], lambda: time.sleep(max(took - 1, 0)))
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()

    print(f"{messages} messages in {took:.1f} s under strace; calls per message:")
    for name, counts in busy.items():
        per_message = {
            call: (count - idle[name].get(call, 0)) / messages for call, count in counts.items()}
        shown = sorted(per_message.items(), key=lambda item: -item[1])
        text = ", ".join(f"{call} {count:.2f}" for call, count in shown if count >= 0.05)
        print(f"  {name:16} {sum(c for c in per_message.values() if c >= 0.05):6.2f}   {text}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
