"""`p2pflows doctor` on set-ups that are broken in one way each: it names that, says what to do, and changes nothing."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from support.network import MOSQUITTO
from support.people import Person
from support.processes import free_port, kill_process

import p2pflows
from p2pflows.doctor import broker_checks, daemon_checks, home_checks
from p2pflows.doctor.finding import Finding, Level
from p2pflows.doctor.visit import visit
from p2pflows.home import Home
from p2pflows.links import broker_url
from p2pflows.protocol import identity

USER = "a" * 64


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with an identity, and no daemon."""
    monkeypatch.delenv("P2PFLOWS_BROKER", raising=False)
    where = Home(tmp_path / "home")
    where.path.mkdir(mode=0o700)
    identity.create(where.key)
    where.config.write_text(f"broker: embedded:{free_port()}\n")
    return where


def problems(home: Home) -> list[Finding]:
    """What is wrong."""
    return [finding for finding in visit(home) if finding.level is Level.PROBLEM]


def broker_problems(url: str) -> list[Finding]:
    """What is wrong with a broker."""
    found = broker_checks.check_broker(broker_url.parse(url), USER, daemon_runs=False)
    return [finding for finding in found if finding.level is not Level.FINE]


def test_a_home_without_a_daemon_has_no_problem(home: Home) -> None:
    """But the doctor says that nothing runs, and how to change that."""
    before = sorted(home.path.iterdir())
    found = list(visit(home))
    assert not [finding for finding in found if finding.level is Level.PROBLEM]
    assert ("daemon", "Run: p2pflows up") in {(each.what, each.next) for each in found if each.level is Level.NOTE}
    assert sorted(home.path.iterdir()) == before


def break_key(home: Home) -> None:
    """Cut the key off."""
    home.key.chmod(0o600)
    home.key.write_text("p2pflows-key")


def damage_journal(home: Home) -> None:
    """Overwrite a page."""
    db = sqlite3.connect(home.journal)
    with db:
        db.execute("CREATE TABLE t (a TEXT)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * 100)
    db.close()
    content = bytearray(home.journal.read_bytes())
    content[4_096:8_192] = os.urandom(4_096)
    home.journal.write_bytes(content)
    home.journal.chmod(0o600)


@pytest.mark.parametrize(
    ("spoil", "what", "said", "then"),
    [
        (lambda home: home.path.chmod(0o777), "home", "can be changed by other users", "chmod go-w"),
        (lambda home: home.key.chmod(0o644), "identity", "can be read by other users", "chmod 600"),
        (break_key, "identity", "key", ""),
        (lambda home: home.config.write_text("broker: {"), "settings", "settings", "Correct"),
        (lambda home: home.config.write_text("brokr: embedded"), "settings", "no setting 'brokr'", "Known ones"),
        (lambda home: home.config.write_text("broker: http://x"), "settings", "unknown form", "mqtts://"),
        (lambda home: home.contacts.write_text("- 1"), "contacts", "", ""),
        (damage_journal, "journal", "damaged", "your copy of it"),
        (lambda home: home.journal.write_text("no journal"), "journal", "damaged or no journal", "your copy of it"),
    ],
    ids=["home", "key-rights", "key", "yaml", "setting", "url", "contacts", "journal", "no-journal"],
)
def test_each_broken_file_is_named(
    home: Home, spoil: Callable[[Home], object], what: str, said: str, then: str
) -> None:
    """And nothing else is."""
    spoil(home)
    if home.journal.exists():
        home.journal.chmod(0o600)
    (found,) = problems(home)
    assert found.what == what
    assert said in found.text
    assert then in found.next
    assert found.next


def test_a_full_disk_is_named_before_the_daemon_notices(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how much room there is."""
    monkeypatch.setattr(home_checks, "LEAST_ROOM_BYTES", 10**18)
    (found,) = problems(home)
    assert (found.what, found.next) == ("disk", "Free some disk space.")


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    """With the way out."""
    where = Home(tmp_path / ("x" * 60) / ("y" * 60))
    where.path.mkdir(parents=True, mode=0o700)
    assert [finding.next for finding in home_checks.check_home(where) if finding.level is Level.PROBLEM] == [
        "Set P2PFLOWS_HOME to a shorter one."
    ]


def test_a_daemon_that_hangs_is_named_with_its_process(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the lock, and nobody answers at the socket."""
    monkeypatch.setattr(daemon_checks, "TIMEOUT_S", 0.3)
    script = f"import fcntl,os; f=open({str(home.lock)!r},'w'); f.write(str(os.getpid())); f.flush(); "
    script += "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen(["python3", "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        (found,) = [finding for finding in problems(home) if finding.what == "daemon"]
        assert f"kill {process.pid}" in found.next
    finally:
        kill_process(process.pid)
        process.communicate()


def test_a_key_variable_that_is_not_set_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker could not call the model."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    home.config.write_text("workers: [{api_infos: [{api_key_env: NO_SUCH_KEY}]}]\n")
    assert [finding.text for finding in home_checks.check_files(home) if finding.what == "keys"] == [
        "The worker of 'default' needs a key, and NO_SUCH_KEY is not set here."
    ]


# The broker.


@pytest.mark.parametrize(
    ("url", "said", "then"),
    [
        ("mqtt://no-such-host.invalid", "No host 'no-such-host.invalid' is known", "check the network"),
        ("mqtt://127.0.0.1:{closed}", "Nothing answers at 127.0.0.1", "start the broker"),
        ("mqtt://127.0.0.1:{web}", "no MQTT broker", "mqtts://"),
        ("mqtts://127.0.0.1:{web}", "does not speak TLS", "mqtt://"),
        ("mqtts://127.0.0.1:{web}?ca_file=/no/such/file", "CA file /no/such/file", "correct the path"),
    ],
)
def test_a_broker_that_is_none_is_named(url: str, said: str, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cause has its own sentence."""
    monkeypatch.setattr(broker_checks, "TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        import threading

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        (found,) = broker_problems(url.format(closed=free_port(), web=server.getsockname()[1]))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert said in found.text
    assert then in found.next


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, int, Path]]:
    """A mosquitto with passwords and rights, with TLS on a second port, and an expired certificate on a third."""
    if not MOSQUITTO or not shutil.which("mosquitto_passwd"):
        pytest.skip("mosquitto or mosquitto_passwd is not installed")
    folder = tmp_path_factory.mktemp("broker")
    folder.chmod(0o755)
    plain, tls, expired = free_port(), free_port(), free_port()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    for name, not_after in (("good", None), ("old", yesterday)):
        issued = authority.issue_cert("localhost", not_before=yesterday - dt.timedelta(days=9), not_after=not_after)
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
    subprocess.run(
        ["mosquitto_passwd", "-c", "-b", folder / "users", "alice", "secret"], check=True, capture_output=True
    )
    for name in ("bob", "carol"):
        subprocess.run(["mosquitto_passwd", "-b", folder / "users", name, "secret"], check=True, capture_output=True)
    (folder / "rights").write_text(
        f"user alice\ntopic readwrite p2pflows/1/{USER}/#\ntopic write p2pflows/1/+/in/+\n"
        "user bob\ntopic readwrite other/#\nuser carol\ntopic write p2pflows/#\n"
    )
    (folder / "conf").write_text(
        f"per_listener_settings false\nallow_anonymous false\npassword_file {folder}/users\nacl_file {folder}/rights\n"
        f"user root\nmax_packet_size 500000\nlistener {plain} 127.0.0.1\n"
        f"listener {tls} 127.0.0.1\ncertfile {folder}/good.crt\nkeyfile {folder}/good.key\n"
        f"listener {expired} 127.0.0.1\ncertfile {folder}/old.crt\nkeyfile {folder}/old.key\n"
    )
    process = subprocess.Popen([MOSQUITTO, "-c", folder / "conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for port in (plain, tls, expired):
            end = time.monotonic() + 10
            while time.monotonic() < end:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.05)
        yield plain, tls, expired, folder
    finally:
        process.terminate()
        process.wait()


def test_a_broker_that_works_is_fine_but_for_its_packets(secured: tuple[int, int, int, Path]) -> None:
    """Over TLS with the CA; a limit for packets is worth a note."""
    _, tls, _, folder = secured
    (found,) = broker_problems(f"mqtts://alice:secret@localhost:{tls}?ca_file={folder}/ca.crt")
    assert (found.level, found.what) == (Level.NOTE, "packets")
    assert "at most 500,000 bytes" in found.text


def test_wrong_passwords_certificates_and_rights_are_named(secured: tuple[int, int, int, Path]) -> None:
    """Each with what to do next, and without the password."""
    plain, tls, expired, folder = secured
    (password,) = broker_problems(f"mqtt://alice:wr0ng@localhost:{plain}")
    assert "check the user name and password" in password.text
    assert "wr0ng" not in password.text + password.next
    (authority,) = broker_problems(f"mqtts://alice:secret@localhost:{tls}")
    assert "certificate" in authority.text
    assert "?ca_file=" in authority.next
    (name,) = broker_problems(f"mqtts://alice:secret@127.0.0.1:{tls}?ca_file={folder}/ca.crt")
    assert "Use the name that the certificate has." in name.next
    (old,) = broker_problems(f"mqtts://alice:secret@localhost:{expired}?ca_file={folder}/ca.crt")
    assert "Check the clock of this machine" in old.next
    rights = [found for found in broker_problems(f"mqtt://bob:secret@localhost:{plain}") if found.what == "rights"]
    assert len(rights) == 2
    assert all("does not let you publish to p2pflows/1/" in found.text for found in rights)
    deaf = [found for found in broker_problems(f"mqtt://carol:secret@localhost:{plain}") if found.what == "rights"]
    assert "does not deliver what is published to topics of yours" in deaf[0].text


# The daemon.


def test_the_doctor_on_a_daemon_that_works(alice: Person) -> None:
    """It finds nothing, whatever else runs on this machine; programs get the same as people."""
    result = alice.cli("doctor")
    assert result.code == 0, result
    assert "No problem was found." in result.err
    found = json.loads(alice.cli("doctor", "--json").out)
    assert {"daemon", "broker", "identity", "journal", "disk"} <= {each["what"] for each in found}


def test_a_point_without_a_worker_is_named_with_the_command(bob: Person) -> None:
    """The flow is served, and nothing would run it."""
    bob.write_file("alone.py", "def alone() -> int:\n    return 1\n")
    worker = bob.start_worker("--dispatch-point", "alone")
    bob.wait_for_status(lambda now: any(each["dispatch_point"] == "alone" for each in now["workers"]))
    bob.serve("alone", "alone.py:alone", "--dispatch-point", "alone")
    worker.terminate()
    worker.wait(15)
    bob.wait_for_status(lambda now: not any(each["dispatch_point"] == "alone" for each in now["workers"]))
    result = bob.cli("doctor")
    bob.request("unserve", endpoint="alone")
    assert result.code == 1, result
    assert "No worker runs for 'alone', so nothing runs alone." in result.out
    assert "Run: p2pflows worker --dispatch-point alone" in result.out


def status(**changes: object) -> dict[str, object]:
    """What a daemon says of itself, with some changes."""
    return {
        "version": p2pflows.__version__, "pid": 1, "problem": None, "dead": 0, "workers": [], "flows": [],
        "broker": {"connected": True, "url": "mqtt://b", "name": "mosquitto", "reason": "", "round_trip_ms": 1.0},
        **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "0.0.9"}, "The daemon is release 0.0.9"),
        ({"problem": "The disk is full."}, "The disk is full."),
        (
            {"broker": {"connected": False, "url": "mqtt://b", "reason": "the connection was lost"}},
            "The daemon is not connected to mqtt://b: the connection was lost.",
        ),
        (
            {"clocks": [{"user": "u", "name": name, "ahead_ms": 3_600_000} for name in ("ann", "bob", "carol")]},
            "The clock of this machine is 60 min behind of your contacts'.",
        ),
    ],
)
def test_what_a_daemon_says_of_itself_is_explained(changes: dict[str, object], said: str) -> None:
    """One problem each, with a next step."""
    (found,) = [each for each in daemon_checks.check_daemon(status(**changes)) if each.level is Level.PROBLEM]
    assert found.text == said or said in found.text
    assert found.next
