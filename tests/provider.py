"""A real OpenID provider in a process of its own, which lets in whomever it is told to."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx


@contextmanager
def openid_provider(people: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The issuer's address; `people` are subjects and their claims."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    words = [f"--user-claims={json.dumps({'sub': sub, **claims})}" for sub, claims in people.items()]
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "oidc_provider_mock",
            "-p",
            str(port),
            "--require-nonce",
            "true",
            *words,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": ""},
    )
    issuer = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(issuer):
            assert process.poll() is None, "the provider has ended"
            assert time.monotonic() < deadline, "the provider does not answer"
            time.sleep(0.05)
        yield issuer
    finally:
        process.terminate()
        process.wait()


def _answers(issuer: str) -> bool:
    try:
        return httpx.get(f"{issuer}/.well-known/openid-configuration", trust_env=False).is_success
    except httpx.TransportError:
        return False


def let_in(url: str, subject: str | None) -> str:
    """What a browser does: says who it is (or refuses) on the provider's page; returns where that sends it to."""
    said = {"sub": subject} if subject else {"action": "deny"}
    answer = httpx.post(url, data=said, trust_env=False)
    assert answer.status_code == 302, re.sub(r"<[^>]*>", "", answer.text)[:500]
    return answer.headers["location"]
