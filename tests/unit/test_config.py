"""Settings: the defaults, the file, the environment, and an error for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pflows import config
from p2pflows.config import Settings, WorkerConfig
from p2pflows.errors import UsageError
from p2pflows.home import Home, home


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home, without settings in the environment."""
    monkeypatch.delenv("P2PFLOWS_BROKER", raising=False)
    return Home(tmp_path)


def _load(where: Home, text: str) -> Settings:
    where.config.write_text(text, encoding="utf-8")
    return config.load(where)


def test_without_a_file_the_defaults_hold(where: Home) -> None:
    """A new home uses the embedded broker, one worker with four slots, and the endpoint User for the human."""
    assert config.load(where) == Settings(
        broker="embedded",
        human_endpoint="User",
        workers=[WorkerConfig(dispatch_point="default", concurrency=4)],
        log_level="info",
    )


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_changes_nothing(where: Home, text: str) -> None:
    """A file without settings is the same as no file."""
    assert _load(where, text) == Settings()


def test_the_file_overrides_defaults(where: Home) -> None:
    """Each setting in the file replaces its default; the others stay."""
    settings = _load(
        where,
        "broker: mqtts://alice:secret@broker.example.org\n"
        "human_endpoint: Alice\n"
        "log_level: debug\n"
        "workers: [{dispatch_point: gpu, concurrency: 1}, {}]\n",
    )
    assert settings.broker == "mqtts://alice:secret@broker.example.org"
    assert (settings.human_endpoint, settings.log_level) == ("Alice", "debug")
    assert [(worker.dispatch_point, worker.concurrency) for worker in settings.workers] == [("gpu", 1), ("default", 4)]


def test_a_daemon_may_start_no_workers(where: Home) -> None:
    """An empty list means no workers."""
    assert _load(where, "workers: []").workers == []


def test_the_environment_has_precedence(where: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2PFLOWS_BROKER replaces the broker of the file, unless it is empty."""
    where.config.write_text("broker: mqtt://one\n")
    monkeypatch.setenv("P2PFLOWS_BROKER", "embedded:20000")
    assert config.load(where).broker == "embedded:20000"
    monkeypatch.setenv("P2PFLOWS_BROKER", "")
    assert config.load(where).broker == "mqtt://one"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("broker: [", "cannot be read"),
        ("broker: 2024-13-01", "cannot be read"),
        ("broker: " + "1" * 5000, "cannot be read"),
        ("workers: " + "{a: " * 5000, "cannot be read"),
        ("- broker", "not a mapping"),
        ("brokr: embedded", "no setting 'brokr'"),
        ("broker: 5", "'broker' is wrong"),
        ("broker: http://broker", "unknown form"),
        ("human_endpoint: _reply", "'human_endpoint' is wrong"),
        ("human_endpoint: a/b", "'human_endpoint' is wrong"),
        ("log_level: loud", "'log_level' is wrong"),
        ("workers: 3", "'workers' is wrong"),
        ("workers: [{concurrency: 0}]", "'workers.0.concurrency' is wrong"),
        ("workers: [{concurrency: 257}]", "'workers.0.concurrency' is wrong"),
        ("workers: [{dispatch_point: a/b}]", "'workers.0.dispatch_point' is wrong"),
        (
            "limits: {bytes_per_contact: many}",
            "give a number with a unit, such as 64 MB",
        ),
        ("limits: {bytes_per_contact: 5 parsecs}", "'limits.bytes_per_contact' is wrong"),
        ("limits: {bytes_per_contact: 1 kB}", "'limits.bytes_per_contact' is wrong"),
        ("limits: {questions_per_contact: -1}", "'limits.questions_per_contact' is wrong"),
        ("limits: {questions_per_contact: 1.5}", "'limits.questions_per_contact' is wrong"),
        ("limits: {questions_per_contact: true}", "'limits.questions_per_contact' is wrong"),
        ("limits: {answers_to_strangers: 90d}", "'limits.answers_to_strangers' is wrong"),
        ("limits: {question_per_contact: 5}", "no setting 'limits.question_per_contact'"),
        ("limits: 5", "'limits' is wrong"),
        ("retention: {calls: forever}", "give a number with a unit, such as 1h"),
        ("retention: {calls: 10s}", "'retention.calls' is wrong"),
        ("retention: {log: 4000d}", "'retention.log' is wrong"),
        ("retention: {answers: 1d}", "no setting 'retention.answers'"),
        ("retention: 1d", "'retention' is wrong"),
        ("workers: [{threads: 2}]", "no setting 'workers.0.threads'"),
    ],
)
def test_a_mistake_in_the_file_is_named(where: Home, text: str, sentence: str) -> None:
    """The error names the setting in one sentence, and has a hint."""
    with pytest.raises(UsageError) as error:
        _load(where, text)
    assert sentence in error.value.message
    assert error.value.hint


def test_limits_have_units(where: Home) -> None:
    """Sizes and times are numbers, or texts with a unit; what is left out keeps its default."""
    text = "limits: {bytes_per_contact: 1.5 GB, bytes_per_stranger: 2000000, answers_to_strangers: 10m, own_bytes: 5MB}"
    limits = _load(where, text).limits
    assert (limits.bytes_per_contact, limits.bytes_per_stranger, limits.own_bytes) == (
        1_500_000_000,
        2_000_000,
        5_000_000,
    )
    assert (limits.answers_to_strangers, limits.questions_per_contact) == (600, 1_000)


@pytest.mark.parametrize(("group", "known"), [("limits", "requests_per_contact, "), ("retention", "calls, ")])
def test_an_unknown_limit_names_those_that_there_are(where: Home, group: str, known: str) -> None:
    """The error of an unknown key lists the keys of its group."""
    with pytest.raises(UsageError) as error:
        _load(where, f"{group}: {{x: 1}}")
    assert known in error.value.hint


def test_how_long_things_are_kept_has_units(where: Home) -> None:
    """A time is a number of seconds, or a text with a unit; what is left out keeps its default."""
    kept = _load(where, "retention: {calls: 2h, log: 7d, inbox: 90}").retention
    assert (kept.calls, kept.log, kept.inbox, kept.transcripts) == (7_200, 604_800, 90, 31_536_000)


def test_a_mistake_does_not_show_the_password(where: Home) -> None:
    """An error about a setting does not quote a secret in it."""
    with pytest.raises(UsageError) as error:
        _load(where, "broker: mqtt://alice:secret@broker/path")
    assert "secret" not in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize(
    "line",
    [
        "\nbroker: mqtt://alice:secret@broker: 1883",
        "\nbroker: 'mqtt://alice:secret@broker",
        "\nbroker: @mqtt://alice:secret@broker",
        "\nbroker: !mqtt://alice:secret@broker",
        "\nbroker: *secret",
        "broker: &secret a\nhuman_endpoint: &secret b",
    ],
)
def test_a_mistake_in_yaml_does_not_show_the_password(where: Home, line: str) -> None:
    """The error about malformed YAML has the line number, but does not quote the line."""
    with pytest.raises(UsageError, match="in line 3") as error:
        _load(where, f"log_level: info\n{line}")
    assert "secret" not in f"{error.value} {error.value.hint}"


def test_a_file_that_is_not_text_is_refused(where: Home) -> None:
    """A file that is not UTF-8 is refused."""
    where.config.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        config.load(where)


def test_the_home_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2PFLOWS_HOME moves all files of a user; the default is ~/.p2pflows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P2PFLOWS_HOME", "alice")
    moved = home()
    files = (moved.key, moved.contacts, moved.config, moved.journal, moved.socket, moved.lock)
    assert moved.path == tmp_path / "alice"
    assert {file.parent for file in files} == {tmp_path / "alice"}
    monkeypatch.setenv("P2PFLOWS_HOME", "~/bob")
    assert home().path == Path.home() / "bob"
    monkeypatch.delenv("P2PFLOWS_HOME")
    assert home().path == Path.home() / ".p2pflows"
