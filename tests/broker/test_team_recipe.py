"""The recipe in broker-config/README.md, run as it is written: on Debian's mosquitto, with Debian's own config."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import wait_until

from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.mqtt_connection import BrokerRefused, Connection

CONFIG = Path(__file__).parents[2] / "broker-config"
DEBIAN = Path("/etc/mosquitto/mosquitto.conf")
TOOLS = ("mosquitto", "mosquitto_ctrl", "mosquitto_rr", "openssl", "dpkg", "unshare")
USER = "a" * 64
OWN_FOLDERS = """
set -e
mkdir etc lib log run root /run/mosquitto 2>/dev/null || true
cp -a /etc/mosquitto/. etc
chown mosquitto: lib log run
mount --bind etc /etc/mosquitto
mount --bind lib /var/lib/mosquitto
mount --bind log /var/log/mosquitto
mount --bind run /run/mosquitto
export HOME=$PWD/root
cd {}
"""
"""Where Debian's package keeps its files, a shell of the test has folders of its own."""


class RootShell:
    """A shell of root that sees the folders of mosquitto as its own."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["unshare", "--mount", "bash"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        )  # fmt: skip
        self.run(OWN_FOLDERS.format(CONFIG))

    def run(self, script: str) -> str:
        """Run commands, and return what they print; all of them must succeed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{script}\necho; echo all done\n")
        self._process.stdin.flush()
        shown = ""
        for line in self._process.stdout:
            if line == "all done\n":
                return shown
            shown += line
        raise AssertionError(shown)

    def close(self) -> None:
        """End the shell, and what it has started."""
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self._process.stdin.write("kill $(jobs -p)\nwait\n")
        self._process.stdin.close()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[RootShell]:
    """The shell of the administrator."""
    if os.geteuid() != 0 or not DEBIAN.exists() or not all(map(shutil.which, TOOLS)):
        pytest.skip("needs root, and Debian's mosquitto with its tools and clients")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody make a namespace")
    shell = RootShell(tmp_path)
    yield shell
    shell.close()


def blocks() -> list[str]:
    """Return the commands of the recipe, block by block."""
    page = (CONFIG / "README.md").read_text(encoding="utf-8")
    recipe = page[page.index("## A team broker, step by step") : page.index("## The rights of a user")]
    found = re.findall(r"(?:^ {4,}\S.*\n)+", recipe, re.MULTILINE)
    return [re.sub(r"^ +", "", block, flags=re.MULTILINE) for block in found]


async def test_the_recipe_works_as_it_is_written(shell: RootShell, free_port: int, tmp_path: Path) -> None:
    """A user who was added can log in, with the newest password, until the user is removed."""

    def run(block: str, password: str = "") -> str:
        """Run a block: its names filled in, its packages there, its questions answered, its service started."""
        for name, value in {
            "HOST": "localhost", "64_HEX_DIGITS": USER, "ADMIN_PASSWORD": "admin-secret", "8883": str(free_port),
            "systemctl restart mosquitto": "mosquitto -c /etc/mosquitto/mosquitto.conf &",
        }.items():  # fmt: skip
            block = block.replace(name, value)
        block = re.sub(r"^apt-get .*$", "", block, flags=re.MULTILINE)
        asks = r"^(mosquitto_ctrl dynsec (?:init \S+ admin|setClientPassword alice))$"
        block = re.sub(asks, rf"printf '{password}\\n{password}\\n' | \1", block, flags=re.MULTILINE)
        listens = f"sed -i 's/^listener 8883/listener {free_port} 127.0.0.1/' /etc/mosquitto/conf.d/p2pflows.conf"
        return shell.run(block + (listens if "conf.d/p2pflows.conf" in block else ""))

    async def logs_in(password: str) -> bool:
        url = BrokerUrl("localhost", free_port, True, "alice", password, str(tmp_path / "etc" / "certs" / "server.crt"))
        connection = Connection(url, "c1", session_seconds=0, clean=True, will=None, after_read=lambda _: None)
        try:
            await connection.open()
        except BrokerRefused:
            return False
        finally:
            connection.abort()
        return True

    certificate, config, start, options, add, listing, change, remove = blocks()
    run(certificate)
    run(config)
    run(start, "admin-secret")
    log = tmp_path / "log" / "mosquitto.log"
    wait_until(lambda: log.exists() and "running" in log.read_text())
    run(options)
    role, set_password = add.rsplit("\n", 2)[0], add.splitlines()[-1]
    assert "error" not in run(role)
    assert not await logs_in("")
    run(set_password, "first")
    assert await logs_in("first")
    shown = run(listing)
    assert "alice\n" in shown
    assert f"p2pflows-{USER}" in shown
    run(change, "second")
    assert not await logs_in("first")
    assert await logs_in("second")
    assert "Error" not in run(remove)
    assert not await logs_in("second")
    assert "alice" not in run(listing.splitlines()[0])
