#!/usr/bin/env python3
"""An Ethernet switch in user space: each port is a TAP device in a network namespace of its own, and every
frame between two ports may be lost, delayed or cut off. It does what the kernel's netem does, on machines
whose kernel has none.

    switch.py NAMESPACE...        as root; port i gets the address 10.77.0.(i+1)/24 and is called star0

Orders come on standard input, one a line; each is answered with one line, "ok" or what is wrong:

    loss P            the part of all frames that is lost (0 to 1)
    delay MS          every frame is under way so long
    cut A B           nothing passes from port A to port B (one direction)
    mend A B          it passes again
    count             frames passed, lost and cut so far, and the longest queue
The last port is the asker's: no fault touches its frames. It ends when its input does."""

import collections
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


def port(index, namespace):
    """The file of a new TAP device, which then lives in the namespace."""
    name = f"star-tap{index}"
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    run = lambda *words: subprocess.run(words, check=True)
    run("ip", "link", "set", name, "address", f"02:00:00:00:00:{index:02x}", "netns", namespace)
    inside = ("ip", "-n", namespace)
    run(*inside, "link", "set", name, "name", "star0")
    run(*inside, "addr", "add", f"10.77.0.{index + 1}/24", "dev", "star0")
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "link", "set", "star0", "up")
    return tap


class Switch:
    """All ports, what is under way, and what is wrong with the network."""

    def __init__(self, namespaces):
        self.ports = [port(index, namespace) for index, namespace in enumerate(namespaces)]
        self.loss, self.delay, self.cuts = 0.0, 0.0, set()
        self.queue = collections.deque()
        self.dice = random.Random(1)
        self.counts = {"passed": 0, "lost": 0, "cut": 0, "longest": 0}

    def obey(self, words):
        """Does what an order says."""
        match words:
            case ["loss", part]:
                self.loss = float(part)
            case ["delay", milliseconds]:
                self.delay = float(milliseconds) / 1e3
            case ["cut", a, b]:
                self.cuts.add((int(a), int(b)))
            case ["mend", a, b]:
                self.cuts.discard((int(a), int(b)))
            case ["count"]:
                return " ".join(f"{name}={count}" for name, count in self.counts.items())
            case _:
                return f"unknown order: {' '.join(words)}"
        return "ok"

    def take(self, source):
        """Takes all frames that a port has."""
        asker = len(self.ports) - 1
        for _ in range(64):
            try:
                frame = os.read(self.ports[source], 65536)
            except (BlockingIOError, OSError):
                return
            everybody = frame[0] & 1
            targets = range(len(self.ports)) if everybody else [frame[5]]
            for target in targets:
                if target == source or target >= len(self.ports):
                    continue
                if asker in (source, target):
                    self.deliver(target, frame)
                elif (source, target) in self.cuts:
                    self.counts["cut"] += 1
                elif self.dice.random() < self.loss:
                    self.counts["lost"] += 1
                else:
                    self.queue.append((time.monotonic() + self.delay, target, frame))
                    self.counts["longest"] = max(self.counts["longest"], len(self.queue))

    def deliver(self, target, frame):
        self.counts["passed"] += 1
        try:
            os.write(self.ports[target], frame)
        except OSError:
            pass  # A device that is down: the link is cut for real.

    def run(self):
        poll = select.poll()
        sources = {tap: index for index, tap in enumerate(self.ports)}
        for tap in [*sources, 0]:
            poll.register(tap, select.POLLIN)
        pending = b""
        while True:
            now = time.monotonic()
            # With one delay for all, the queue is in order but for changes of the delay.
            while self.queue and self.queue[0][0] <= now:
                _, target, frame = self.queue.popleft()
                self.deliver(target, frame)
            wait = max(0.0, self.queue[0][0] - now) if self.queue else 1.0
            for file, _ in poll.poll(wait * 1e3 + 0.2 if self.queue else None):
                if file in sources:
                    self.take(sources[file])
                    continue
                read = os.read(0, 4096)
                if not read:
                    return
                *lines, pending = (pending + read).split(b"\n")
                for line in lines:
                    print(self.obey(line.decode().split()), flush=True)


if __name__ == "__main__":
    switch = Switch(sys.argv[1:])
    print("ready", flush=True)
    switch.run()
