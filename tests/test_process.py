"""Programs end when their time is up, with all that they started."""

import time
from pathlib import Path

import pytest

from bmi.errors import TimedOutError
from bmi.process import run


def test_a_child_that_holds_the_output_open_ends_with_the_program(tmp_path: Path) -> None:
    script = f"(echo $BASHPID > {tmp_path}/child; exec sleep 100) & wait"
    with pytest.raises(TimedOutError, match="bash did not end"):
        run(["bash", "-c", script], timeout_s=0.5)
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "cmdline"
    for _ in range(100):  # whoever inherits it has to take notice
        if not child.exists() or not child.read_bytes():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child lives on")
