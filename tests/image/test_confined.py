"""What a program sees and may do that reads a stranger's file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bmi.errors import DriverError, TimedOutError
from bmi.image.confined import INPUT, OUTPUT, confined, run_confined

SECRET = "of this machine"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("input", encoding="utf-8")
    path.chmod(0o400)
    return path


def python(program: str, source: Path, **options: object) -> str:
    command = ["python3", "-c", f"import os, socket, resource; {program}"]
    return run_confined(command, reads=source, timeout_s=30, **options).stdout.strip()  # type: ignore[arg-type]


def test_it_reads_its_input_and_sees_nothing_else(source: Path) -> None:
    assert python(f"print(open('{INPUT}').read())", source) == "input"
    assert python("print(*sorted(os.listdir('/')))", source) == "bin dev input lib lib64 sbin usr"
    assert python("print(*os.listdir('/dev'))", source) == "null"
    assert python("print(*os.environ)", source) in {"LC_ALL PATH PWD", "PATH LC_ALL PWD", "PWD LC_ALL PATH"}
    assert python("print([name for _, name in socket.if_nameindex()])", source) == "['lo']"


def test_it_writes_its_output_alone(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch(mode=0o600)
    python(f"open('{OUTPUT}', 'w').write('x' * 10)", source, writes=target, written_bytes=10)
    assert target.read_text(encoding="utf-8") == "x" * 10
    assert (target.stat().st_uid, target.stat().st_mode & 0o777) == (os.geteuid(), 0o600)
    for path in (INPUT, "/usr/x", "/x"):
        with pytest.raises(DriverError, match="Read-only file system"):
            python(f"open('{path}', 'w')", source, written_bytes=10)


@pytest.mark.real
def test_it_is_nobody_and_cannot_become_somebody(source: Path) -> None:
    user = int(python("print(os.getuid())", source))
    assert user == int(python("print(os.getgid())", source)) >= 0x7000_0000
    for act in ("os.setuid(0)", "os.mknod('/dev/sda', 0o60600, 2048)", "os.chroot('/usr')"):
        with pytest.raises(DriverError, match=r"not permitted|Read-only"):
            python(act, source)


def test_it_has_limits(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    with pytest.raises(DriverError, match="MemoryError"):
        python("bytearray(3 << 30)", source)
    with pytest.raises(DriverError, match="File too large"):
        python(f"open('{OUTPUT}', 'wb', 0).write(bytes(11)) == 11 or open('{OUTPUT}', 'ab', 0).write(b'x')",
               source, writes=target, written_bytes=10)  # fmt: skip
    assert target.stat().st_size == 10
    with pytest.raises(TimedOutError, match="sleep did not end"):
        run_confined(["sleep", "60"], reads=source, timeout_s=0.2)


def test_its_failures_are_told_from_those_of_its_confinement(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="failed with exit code 7") as caught:
        python("os._exit(7)", source)
    assert caught.value.facts["returncode"] == 7
    for command, reads in ((["true"], tmp_path / "gone"), (["no-such-program"], source)):
        with pytest.raises(DriverError, match="could not be started confined"):
            run_confined(command, reads=reads, timeout_s=30, ok_codes=(0, 1, 127))


def test_it_dies_with_us(source: Path) -> None:
    command = confined(["sh", "-c", "echo; exec sleep 600"], reads=source)
    ours, its = os.pipe()
    starter = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r}, stdout={its})"],
        pass_fds=[its],
    )
    os.close(its)
    assert os.read(ours, 1) == b"\n"
    starter.kill()
    starter.wait()
    assert os.read(ours, 1) == b""  # nobody holds the other end any more
    os.close(ours)
