"""The demo is what people see first: it runs as they run it, and every check in it holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


def test_the_demo_succeeds_and_leaves_nothing(tmp_path: Path) -> None:
    summary_path = tmp_path / "summary.json"
    done = subprocess.run(
        # Beside a demo that somebody keeps running on this machine.
        [
            *(sys.executable, "-m", "bmi.lab.demo", "--json", summary_path, "--dir", tmp_path / "demo"),
            *("--name", "demotest", "--port", "7566"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(summary_path.read_text())
    assert {node["name"]: node["project"] for node in summary["nodes"]} == {
        "n1": "red",
        "n2": "red",
        "n3": "blue",
    }
    assert all(node["up"] for node in summary["nodes"])
    assert summary["isolation"] == {
        "same_project_reachable": True,
        "other_project_reachable": False,
        "other_project_volume_readable": False,
    }
    assert summary["target_killed"]["io_errors"] == 0
    assert summary["snapshot"]["sees_marker_file"]
    assert summary["left_behind"] == []
