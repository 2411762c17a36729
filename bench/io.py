#!/usr/bin/env python3
"""What does a node's I/O cost through our export: beside the best bare tgt, and beside the store itself?

One disk is exported by BMI's own driver as BMI configures it, by a tgtd that is set up by hand (see BARE), by a
second one that is set up the same, and is opened without any export. The same client, `qemu-img bench`, runs the
same pattern on one after the other, for moments, many times over. A machine's speed changes from one moment to
the next: so each measurement has one of the bare tgtd right before and right after it and is divided by their
mean, and what is shown is the median of these ratios, with the interval that holds it in 95 of 100 runs
(`low`, `high`). `noise` is the same figure of the second bare tgtd: how far from 1 it is, is no property of
anybody's configuration. `--search` compares other ways to configure a bare tgtd with the one in BARE instead.

On the local store all sides share one file, so that no side has the better place on the disk or in memory. On
Ceph, where one client at a time holds an image, each has its own clone.

"Random" means a fixed long step, coprime to the number of blocks: every block comes once before any comes
again, in an order that no read-ahead follows.
"""

import argparse
import math
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bmi.drivers.export import Export, Portal, Target
from bmi.drivers.storage import Backing, Ref, Storage
from bmi.lab.benches import STORES, opened_tools, parser, publish
from bmi.process import run

KIB, MIB = 1 << 10, 1 << 20
HOST = "127.0.0.1"
# What `qemu-img bench` calls itself; it takes no other name.
INITIATOR = "iqn.2008-11.org.linux-kvm"
STORE_GIB = 16
TRIAL_S = 0.3
REFERENCE = "bare_tgt"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Pattern:
    """What the client does: `depth` requests of `block_bytes` at a time."""

    name: str
    block_bytes: int
    depth: int
    write: bool
    random: bool

    def options(self, count: int) -> list[str]:
        step = self.block_bytes * (50_021 if self.random else 1)  # a prime
        shape = ["-c", str(count), "-d", str(self.depth), "-s", str(self.block_bytes), "-S", str(step)]
        return [*shape, "-w"] if self.write else shape

    def rate(self, count: int, seconds: float) -> float:
        """IO/s of small requests, MiB/s of large ones."""
        return count / seconds if self.random else count * self.block_bytes / MIB / seconds


PATTERNS = (
    Pattern("4k random read, depth 1", 4 * KIB, 1, write=False, random=True),
    Pattern("4k random read, depth 32", 4 * KIB, 32, write=False, random=True),
    Pattern("4k random write, depth 1", 4 * KIB, 1, write=True, random=True),
    Pattern("4k random write, depth 32", 4 * KIB, 32, write=True, random=True),
    Pattern("128k sequential read", 128 * KIB, 8, write=False, random=False),
    Pattern("128k sequential write", 128 * KIB, 8, write=True, random=False),
)


@dataclass(frozen=True)
class Bare:
    """A tgtd as a person would set it up with tgtadm."""

    threads: int
    device: tuple[str, ...] = ()
    target: Mapping[str, int | str] = field(default_factory=dict)
    thin: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


BIG: Mapping[str, int | str] = {"MaxRecvDataSegmentLength": 262144, "FirstBurstLength": 262144}
# Without this, tgt's rbd store acknowledges what librbd still has in its own memory: fast, and lost with tgtd.
SAFE = {"CEPH_ARGS": "--rbd-cache=false"}
BARE = {"local": Bare(1, target=BIG), "ceph": Bare(16, target=BIG, environment=SAFE)}
CANDIDATES: dict[str, dict[str, Bare]] = {
    "local": {
        "tgt as it comes": Bare(16, thin=False),
        "the reference once more": Bare(1, target=BIG),
        "1 thread": Bare(1),
        "1 thread, no thin provisioning": Bare(1, thin=False),
        "1 thread, big segments": Bare(1, target=BIG),
        "2 threads, big segments": Bare(2, target=BIG),
        "4 threads, big segments": Bare(4, target=BIG),
        "16 threads, big segments": Bare(16, target=BIG),
        "1 thread, 1 MiB segments": Bare(
            1, target={"MaxRecvDataSegmentLength": MIB, "FirstBurstLength": MIB, "MaxBurstLength": MIB}
        ),
        "1 thread, big, InitialR2T": Bare(1, target={**BIG, "InitialR2T": "Yes"}),
        "1 thread, big, R2T 16": Bare(1, target={**BIG, "MaxOutstandingR2T": 16}),
        "1 thread, big, no ImmediateData": Bare(1, target={**BIG, "ImmediateData": "No"}),
        "1 thread, big, NOP 5 s": Bare(1, target={**BIG, "nop_interval": 5, "nop_count": 3}),
        "aio, big": Bare(1, device=("--bstype", "aio"), target=BIG),
        "1 thread, big, direct": Bare(1, device=("--bsoflags", "direct"), target=BIG),
    },
    "ceph": {
        "tgt as it comes (loses data)": Bare(16, thin=False),
        "the reference once more": Bare(16, target=BIG, environment=SAFE),
        "small segments": Bare(16, environment=SAFE),
        "1 thread": Bare(1, target=BIG, environment=SAFE),
        "4 threads": Bare(4, target=BIG, environment=SAFE),
        "8 threads": Bare(8, target=BIG, environment=SAFE),
        "32 threads": Bare(32, target=BIG, environment=SAFE),
        "write-through cache": Bare(
            16, target=BIG, environment={"CEPH_ARGS": "--rbd-cache-policy=writethrough"}
        ),
    },
}


@dataclass(frozen=True)
class Side:
    """One way to the bytes, as the client is told it."""

    disk: str
    cache: str = "none"
    environment: Mapping[str, str] = field(default_factory=dict)

    def seconds(self, pattern: Pattern, count: int) -> float:
        """How long the client takes for `count` requests."""
        command = ["qemu-img", "bench", "-f", "raw", "-t", self.cache, *pattern.options(count), self.disk]
        said = run(command, env=self.environment, timeout_s=TIMEOUT_S).stdout
        found = re.search(r"Run completed in ([\d.]+) seconds", said)
        if found is None:
            raise RuntimeError(f"qemu-img bench said {said!r}")
        return float(found[1])

    def count(self, pattern: Pattern, seconds: float) -> int:
        """How many requests take about that long; the trial warms up what a cache will hold."""
        count = 64
        while (took := self.seconds(pattern, count)) < TRIAL_S:
            count *= 4
        return max(1, round(count * seconds / took))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--storage", choices=STORES, default="local", help="(%(default)s)")
    options.add_argument("--rounds", type=int, default=150, help="rounds of every pattern (%(default)s)")
    options.add_argument("--seconds", type=float, default=0.15, help="of each measurement (%(default)s)")
    options.add_argument("--size-mib", type=int, default=256, help="size of the volumes (%(default)s)")
    options.add_argument("--only", default="", help="patterns whose names hold this text")
    options.add_argument("--search", action="store_true", help="compare bare configurations instead")
    options.add_argument("--directory", type=Path, default=Path("/dev/shm"), help="(%(default)s)")
    chosen = options.parse_args()
    place = Path(tempfile.mkdtemp(prefix="bmi-bench-io-", dir=chosen.directory))
    try:
        with opened_tools(chosen.storage, place, size_gib=STORE_GIB) as tools:
            if chosen.search:
                rows = search(tools.storage, place, chosen)
            else:
                rows = compare(tools.storage, tools.export, place, chosen)
    finally:
        shutil.rmtree(place)
    publish("io", rows, chosen.json)


def compare(
    store: Storage, export: Export, place: Path, chosen: argparse.Namespace
) -> list[dict[str, object]]:
    """Our export, the bare one twice and the store, pattern by pattern."""
    volumes = make_volumes(store, chosen.size_mib * MIB, 1 if chosen.storage == "local" else 4)
    volumes *= 4 // len(volumes)
    bare, rows = BARE[chosen.storage], []
    with ExitStack() as running:
        sides = {
            REFERENCE: running.enter_context(bare_export(bare, volumes[0], place)),
            "ours": running.enter_context(our_export(export, volumes[1])),
            "twin": running.enter_context(bare_export(bare, volumes[2], place)),
            "store": unexported(volumes[3]),
        }
        write_over(list(sides.values()), chosen.size_mib)
        for pattern in wanted(chosen):
            rates, ratios = measure(sides, pattern, chosen.rounds, chosen.seconds)
            low, high = interval(ratios["ours"])
            medians = {name: statistics.median(rates[name]) for name in ("ours", REFERENCE, "store")}
            to_store = [tgt / its for tgt, its in zip(ratios["ours"], ratios["store"], strict=True)]
            rows.append(
                {"storage": chosen.storage, "pattern": pattern.name}
                | {"unit": "IO/s" if pattern.random else "MiB/s"}
                | {name: round(rate, 1) for name, rate in medians.items()}
                | {"ratio_to_tgt": median(ratios["ours"]), "low": round(low, 3), "high": round(high, 3)}
                | {"noise": median(ratios["twin"]), "ratio_to_store": median(to_store)}
            )
    return rows


def search(store: Storage, place: Path, chosen: argparse.Namespace) -> list[dict[str, object]]:
    """Every candidate's rate as a share of BARE's, pattern by pattern."""
    candidates = {REFERENCE: BARE[chosen.storage]} | CANDIDATES[chosen.storage]
    volumes = make_volumes(store, chosen.size_mib * MIB, len(candidates))
    rows: dict[str, dict[str, object]] = {
        name: {"configuration": name} for name in CANDIDATES[chosen.storage]
    }
    with ExitStack() as running:
        sides = {
            name: running.enter_context(bare_export(bare, volume, place))
            for (name, bare), volume in zip(candidates.items(), volumes, strict=True)
        }
        write_over(list(sides.values()), chosen.size_mib)
        for pattern in wanted(chosen):
            _, ratios = measure(sides, pattern, chosen.rounds, chosen.seconds)
            for name, of_side in ratios.items():
                rows[name][pattern.name] = median(of_side)
    return list(rows.values())


def wanted(chosen: argparse.Namespace) -> list[Pattern]:
    return [pattern for pattern in PATTERNS if chosen.only in pattern.name]


def measure(
    sides: Mapping[str, Side], pattern: Pattern, rounds: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Each side's rates, and the others' ratios to the reference: in each round, in an order of its own, each of
    the others between two measurements of the reference.
    """
    counts = {name: side.count(pattern, seconds) for name, side in sides.items()}

    def rate(name: str) -> float:
        return pattern.rate(counts[name], sides[name].seconds(pattern, counts[name]))

    rates: dict[str, list[float]] = {name: [] for name in sides}
    ratios: dict[str, list[float]] = {name: [] for name in sides if name != REFERENCE}
    before = rate(REFERENCE)
    for _ in range(rounds):
        for name in random.sample(list(ratios), len(ratios)):
            rates[name].append(rate(name))
            after = rate(REFERENCE)
            rates[REFERENCE].append(after)
            ratios[name].append(rates[name][-1] / math.sqrt(before * after))
            before = after
    return rates, ratios


def median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of all that could be measured lies with a probability of 95 %, whatever the
    distribution: half of the values lie below it, give or take 1.96 standard deviations of a coin's throws.
    """
    ordered, count = sorted(values), len(values)
    away = 0.98 * math.sqrt(count)
    return ordered[max(0, math.floor(count / 2 - away))], ordered[min(count - 1, math.ceil(count / 2 + away))]


# ---- the sides --------------------------------------------------------------------------------------


def make_volumes(store: Storage, size_bytes: int, count: int) -> list[Backing]:
    """Clones of one image that is full of random bytes."""
    staged = store.staging_path("golden")
    with staged.open("wb") as disk:
        for _ in range(0, size_bytes, MIB):
            disk.write(os.urandom(MIB))
    store.commit_image("golden")
    for number in range(count):
        store.clone(Ref("image", "golden"), f"v{number}")
    return [store.backing(f"v{number}") for number in range(count)]


def write_over(sides: Sequence[Side], size_mib: int) -> None:
    """What copy-on-write costs once is paid before anything is measured (bench/clone.py is about that)."""
    whole = Pattern("whole", MIB, 4, write=True, random=False)
    for side in sides:
        side.seconds(whole, size_mib)


@contextmanager
def our_export(export: Export, volume: Backing) -> Iterator[Side]:
    """The volume as BMI offers it to a node, CHAP and all."""
    portal = Portal("bench", HOST, free_port())
    target = Target(
        "iqn.2024-07.internal.bmi:bench",
        volume,
        INITIATOR,
        "bench",
        "no-secret-at-all",
        "target",
        "none-either",
    )
    try:
        export.ensure_portal(portal, [target])
        yield Side(
            f"iscsi://{HOST}:{portal.port}/{target.iqn}/1",
            environment={
                "LIBISCSI_CHAP_USERNAME": target.chap_user,
                "LIBISCSI_CHAP_PASSWORD": target.chap_secret,
            },
        )
    finally:
        export.remove_portal(portal)


@contextmanager
def bare_export(bare: Bare, volume: Backing, place: Path) -> Iterator[Side]:
    """The volume in a tgtd of its own that BMI's driver knows nothing of; anybody may log in."""
    home = Path(tempfile.mkdtemp(prefix="bare-", dir=place))
    environment = {"TGT_IPC_SOCKET": str(home / "s")} | dict(bare.environment)
    port, iqn = free_port(), "iqn.2024-07.internal.bmi:bare"
    with (home / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["tgtd", "-f", "-t", str(bare.threads), "--iscsi", f"portal={HOST}:{port}"],
            env={"PATH": os.environ["PATH"]} | environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # as any daemon; the scheduler gives each session its share
            stdout=log,
            stderr=log,
        )

    def tgtadm(op: str, mode: str, *options: str) -> None:
        command = ["tgtadm", "--lld", "iscsi", "--op", op, "--mode", mode, "--tid", "1", *options]
        run(command, env=environment)

    kind = {"file": "rdwr", "rbd": "rbd"}[volume.kind]
    bsopts = ";".join(f"{name}={value}" for name, value in volume.options)
    device = ["--backing-store", volume.location, *(bare.device or ("--bstype", kind))]
    try:
        while not (home / "s.0").exists():
            if daemon.poll() is not None:
                raise RuntimeError(f"tgtd ended: {(home / 'log').read_text()}")
            time.sleep(0.01)
        tgtadm("new", "target", "--targetname", iqn)
        for name, value in bare.target.items():
            tgtadm("update", "target", "--name", name, "--value", str(value))
        tgtadm("new", "logicalunit", "--lun", "1", *device, *(["--bsopts", bsopts] if bsopts else []))
        if bare.thin:
            tgtadm("update", "logicalunit", "--lun", "1", "--params", "thin_provisioning=1")
        tgtadm("bind", "target", "--initiator-address", "ALL")
        yield Side(f"iscsi://{HOST}:{port}/{iqn}/1")
    finally:
        daemon.kill()
        daemon.wait()


def unexported(volume: Backing) -> Side:
    """The volume without iSCSI: a file through the page cache, as tgt has it, or librbd without a cache."""
    if volume.kind == "file":
        return Side(volume.location, cache="writeback")
    options = "".join(f":{name}={value}" for name, value in volume.options)
    return Side(f"rbd:{volume.location}{options}")


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
