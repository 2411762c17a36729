"""A real Open vSwitch behind a shell."""

import subprocess

from tests.switches.candidate import Shell


class OvsShell(Shell):
    """Runs `ovs-vsctl`, and nothing else."""

    def program(self, line: str) -> str:
        if not line.startswith("ovs-vsctl "):
            return f"bash: {line.split(maxsplit=1)[0]}: command not found"
        done = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True, timeout=20)
        return done.stdout + done.stderr

    def vlans(self, port: str) -> frozenset[int]:
        raise NotImplementedError
