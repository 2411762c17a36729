#!/usr/bin/env python3
"""Are clone, snapshot and delete a matter of milliseconds, whatever the size of the image?

Images of several sizes, with the same amount of data scattered over them, go through BMI's own import;
then clone, snapshot and delete are timed one by one, each durable when it returns. `random_writes_snapshot_s`
is the snapshot of a volume straight after random 4 KiB writes all over it, most of them not yet on the disk.
`clones_add_mib` is by how much the store fills, as the file system or the cluster says, with `clones` clones
that nobody has written to.
"""

import os
import random
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import rados
import rbd

from bmi.drivers.storage import Backing, Ref, Storage
from bmi.drivers.storage.local import LocalStorage
from bmi.image.convert import convert
from bmi.lab.benches import STORES, median_ms, opened_tools, parser, publish, seconds

GIB, MIB, KIB = 1 << 30, 1 << 20, 1 << 10
BLOCK_BYTES = 4 * KIB
SMALLEST_RUN_BYTES, LARGEST_RUN_BYTES = 256 * KIB, 64 * MIB
IMPORT_TIMEOUT_S = 1800
# The first write into each object of an RBD clone copies 4 MiB.
RANDOM_WRITES = {"local": 20_000, "ceph": 50}
SPARE_GIB = 20
COUNTED_EVERY_S, COUNTS = 6, 3


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--storage", choices=STORES, default="local", help="(%(default)s)")
    options.add_argument("--sizes", default="1,10,100", help="sizes of the images in GiB (%(default)s)")
    options.add_argument("--data-gib", type=int, default=1, help="data in each image (%(default)s)")
    options.add_argument("--rounds", type=int, default=40, help="rounds of each call (%(default)s)")
    options.add_argument(
        "--random-writes",
        type=int,
        help=f"({RANDOM_WRITES['local']} on local, {RANDOM_WRITES['ceph']} on ceph)",
    )
    options.add_argument(
        "--clones", type=int, default=100, help="clones to fill the store with (%(default)s)"
    )
    options.add_argument(
        "--directory", type=Path, default=tempfile.gettempdir(), help="where the store is made"
    )
    chosen = options.parse_args()
    random_writes = RANDOM_WRITES[chosen.storage] if chosen.random_writes is None else chosen.random_writes
    sizes = [int(size) for size in chosen.sizes.split(",")]
    if min(sizes) < chosen.data_gib:
        options.error(f"no image of {min(sizes)} GiB holds {chosen.data_gib} GiB of data")
    place = Path(tempfile.mkdtemp(prefix="bmi-bench-clone-", dir=chosen.directory))
    try:
        with opened_tools(chosen.storage, place, size_gib=len(sizes) * chosen.data_gib + SPARE_GIB) as tools:
            store = tools.storage
            rows = []
            for size_gib in sizes:
                image = import_image(store, place, size_gib, chosen.data_gib)
                # First, while nothing that was deleted is still being cleared away.
                added_mib = space_of_clones(store, image, chosen.clones)
                times = time_calls(store, image, chosen.rounds)
                snapshot_s = time_snapshots_under_writes(store, image, size_gib * GIB, random_writes)
                rows.append(
                    {"storage": chosen.storage, "size_gib": size_gib, "data_gib": chosen.data_gib}
                    | times
                    | {"random_writes": random_writes, "random_writes_snapshot_s": snapshot_s}
                    | {"clones": chosen.clones, "clones_add_mib": added_mib}
                )
        publish("clone", rows, chosen.json)
    finally:
        shutil.rmtree(place)


def import_image(store: Storage, place: Path, size_gib: int, data_gib: int) -> Ref:
    """Makes a disk and takes it in as BMI does: convert into the staging place, commit."""
    source, image = place / "source.raw", Ref("image", f"{size_gib}-gib")
    make_disk(source, size_gib * GIB, data_gib * GIB)
    convert(source, store.staging_path(image.id), timeout_s=IMPORT_TIMEOUT_S)
    store.commit_image(image.id)
    source.unlink()
    return image


def make_disk(path: Path, size_bytes: int, data_bytes: int) -> None:
    """A partitioned sparse disk with `data_bytes` of random data in runs as files leave them: mostly
    short, most bytes in long ones, all over the disk.
    """
    chance = random.Random(size_bytes)
    runs = list(run_lengths(chance, data_bytes))
    gap_ends = sorted(chance.randrange(0, size_bytes - data_bytes + 1, BLOCK_BYTES) for _ in runs)
    written = 0
    with path.open("wb") as disk:
        disk.truncate(size_bytes)
        for gap_end, length in zip(gap_ends, runs, strict=True):
            disk.seek(gap_end + written)
            for start in range(0, length, MIB):
                disk.write(os.urandom(min(MIB, length - start)))
            written += length
        disk.seek(0)
        partition = struct.pack("<B3xB3xII", 0x80, 0x83, 2048, size_bytes // 512 - 2048)
        disk.write(bytes(446) + partition + bytes(48) + b"\x55\xaa")


def run_lengths(chance: random.Random, data_bytes: int) -> Iterator[int]:
    """Whole blocks that add up to `data_bytes`, their lengths uniform on a logarithmic scale."""
    left = data_bytes
    while left:
        wanted = SMALLEST_RUN_BYTES * (LARGEST_RUN_BYTES / SMALLEST_RUN_BYTES) ** chance.random()
        length = min(left, int(wanted) // BLOCK_BYTES * BLOCK_BYTES)
        yield length
        left -= length


def time_calls(store: Storage, image: Ref, rounds: int) -> dict[str, float]:
    """Medians of clone, snapshot of the clone, and delete."""
    volume, snapshot = Ref("volume", "v"), Ref("snapshot", "s")
    clone_s, snapshot_s, delete_s = [], [], []
    for _ in range(rounds):
        clone_s.append(seconds(lambda: store.clone(image, volume.id)))
        snapshot_s.append(seconds(lambda: store.snapshot(volume.id, snapshot.id)))
        delete_s.append(seconds(lambda: store.delete(volume)))
        store.delete(snapshot)
    return {
        "clone_ms": median_ms(clone_s),
        "snapshot_ms": median_ms(snapshot_s),
        "delete_ms": median_ms(delete_s),
    }


def time_snapshots_under_writes(store: Storage, image: Ref, size_bytes: int, writes: int) -> float:
    """The median of five snapshots, each of a fresh volume after `writes` random writes, in seconds."""
    chance = random.Random(writes)
    volume, snapshot = Ref("volume", "v"), Ref("snapshot", "s")
    samples_s = []
    for _ in range(5):
        store.clone(image, volume.id)
        offsets = [chance.randrange(0, size_bytes, BLOCK_BYTES) for _ in range(writes)]
        WRITERS[store.backing(volume.id).kind](store.backing(volume.id), offsets)
        samples_s.append(seconds(lambda: store.snapshot(volume.id, snapshot.id)))
        store.delete(volume)
        store.delete(snapshot)
    return round(statistics.median(samples_s), 3)


def write_file(disk: Backing, offsets: Sequence[int]) -> None:
    with Path(disk.location).open("r+b", buffering=0) as file:
        for offset in offsets:
            os.pwrite(file.fileno(), os.urandom(BLOCK_BYTES), offset)


def write_rbd(disk: Backing, offsets: Sequence[int]) -> None:
    options = dict(disk.options)
    pool, _, name = disk.location.partition("/")
    with (
        rados.Rados(conffile=options["conf"], name=f"client.{options['id']}") as cluster,
        cluster.open_ioctx(pool) as ioctx,
        rbd.Image(ioctx, name) as image,
    ):
        for offset in offsets:
            image.write(os.urandom(BLOCK_BYTES), offset)


WRITERS = {"file": write_file, "rbd": write_rbd}


def space_of_clones(store: Storage, image: Ref, count: int) -> float:
    """By how many MiB the store fills with `count` clones that nobody has written to."""
    volumes = [Ref("volume", f"space-{number}") for number in range(count)]
    before = settled_free_bytes(store)
    for volume in volumes:
        store.clone(image, volume.id)
    added_bytes = before - settled_free_bytes(store)
    for volume in volumes:
        store.delete(volume)
    return round(added_bytes / MIB, 2)


def settled_free_bytes(store: Storage) -> int:
    """What is free once everything is on the disk and counted: a cluster counts every few seconds."""
    os.sync()
    seen = [free_bytes(store)]
    while len(seen) < COUNTS or len(set(seen[-COUNTS:])) > 1:
        time.sleep(COUNTED_EVERY_S)
        seen.append(free_bytes(store))
    return seen[-1]


def free_bytes(store: Storage) -> int:
    """Of a file system, its free blocks: what it says is available, which `space` counts, falls by 256 MiB at a
    time on btrfs, which sets as much aside for all its metadata when it needs the first of it.
    """
    if isinstance(store, LocalStorage):
        counts = os.statvfs(store.staging_path("any").parent)
        return counts.f_bfree * counts.f_frsize
    return store.space().free_bytes


if __name__ == "__main__":
    main()
