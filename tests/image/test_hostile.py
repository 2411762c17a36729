"""Files that were made to hurt are refused with the reason, and leave nothing behind."""

import random
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bmi.errors import InvalidImageError, TimedOutError
from bmi.image.convert import convert, probe
from bmi.image.unpack import unpacked
from tests.image import hostile
from tests.image.hostile import MIB, Hostile

# A file that keeps BMI busy for longer counts as not refused.
LIMIT_S = 60


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in hostile.ALL])
def test_hostile_file_is_refused(case: Hostile, tmp_path: Path) -> None:
    store, work, source = tmp_path / "store", tmp_path / "work", tmp_path / "disk.raw"
    store.mkdir()
    work.mkdir()
    source.write_bytes(case.make())
    limits = {"timeout_s": LIMIT_S, "max_size_bytes": case.max_size_bytes, "keep_free_bytes": 0}
    with pytest.raises(InvalidImageError, match=case.says) as caught:
        convert(source, store / "new", work_dir=work, **limits)
    assert "disk.raw" in caught.value.detail
    assert not [*store.iterdir(), *work.iterdir()]


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in hostile.ALL}) == len(hostile.ALL) > 100


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "vdi", "vpc", "vhdx"])
def test_any_damage_is_an_answer_or_a_refusal(image_format: str, tmp_path: Path) -> None:
    """Metadata with a few bytes changed at random: never an error of another kind, never a wrong size."""
    good, path = hostile.image(image_format), tmp_path / "disk"
    path.write_bytes(good)
    chance = random.Random(image_format)
    used = [at for at, byte in enumerate(good[: 4 * MIB]) if byte and at >= 8][:4000]
    with path.open("r+b", buffering=0) as file:
        for _ in range(200):
            places = [chance.choice(used) + chance.randint(0, 4) for _ in range(chance.randint(1, 4))]
            for at in places:
                file.seek(at)
                file.write(bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))]))
            with suppress(InvalidImageError):
                assert 0 < probe(path, max_size_bytes=256 * MIB).virtual_size_bytes <= 256 * MIB
            for at in places:
                file.seek(at)
                file.write(good[at : at + 1])


def test_unpacking_has_a_time_limit(tmp_path: Path) -> None:
    source = tmp_path / "disk.gz"
    source.write_bytes(hostile.gz(hostile.disk_bytes()))
    with pytest.raises(TimedOutError), unpacked(source, "gzip", timeout_s=0.5):
        time.sleep(1)  # while the program waits for us to read
    with pytest.raises(TimedOutError):
        convert(source, tmp_path / "target", timeout_s=0)
    assert list(tmp_path.iterdir()) == [source]
