"""The programs of the initramfs: what can be told of them without a machine to boot."""

import subprocess
from importlib import resources

import pytest


@pytest.mark.parametrize("name", ["init", "report-up"])
def test_the_shell_that_will_run_it_can_read_it(name: str) -> None:
    text = resources.files("bmi.image").joinpath(name).read_text(encoding="utf-8")
    done = subprocess.run(
        ["busybox", "sh", "-n"], input=text, text=True, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
