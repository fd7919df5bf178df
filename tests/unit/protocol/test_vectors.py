"""The code against the frozen bytes in tests/vectors, in both directions; other bytes are another protocol."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519
from nacl.secret import SecretBox

from p2pflows.contacts import Contacts
from p2pflows.errors import BadAnswer, BadInput, UsageError
from p2pflows.forms.wire import form_of, read_reply, reply_data
from p2pflows.protocol import channel, file_frames, framing, topics
from p2pflows.protocol.channel import BadFrame, Channel, Enrolment
from p2pflows.protocol.envelope import HEADER_BYTES, NONCE_BYTES, BundleKind, Envelope, Refused
from p2pflows.protocol.file_reference import references_in
from p2pflows.protocol.identity import SIGNATURE_BYTES, Identity, verify
from p2pflows.protocol.ids import new_id
from p2pflows.protocol.invitation import Invitation, parse
from p2pflows.protocol.message import Message
from p2pflows.protocol.notice import Notice
from p2pflows.protocol.progress import Reader
from p2pflows.protocol.words import words_of
from p2pflows.protocol.worker_frames import DaemonFrame, WorkerFrame
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.node import Node
from p2pflowsd.running.worker_tokens import point_key, token_key
from p2pflowsd.sending import presence

VECTORS = Path(__file__).parents[2] / "vectors"
SCRIPT = runpy.run_path(str(VECTORS.parents[1] / "scripts" / "vector.py"))


def _load(name: str) -> dict[str, Any]:
    return dict(json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8")))


def _cases(name: str, group: str = "cases") -> pytest.MarkDecorator:
    cases = _load(name)[group]
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def _identity(seed: str) -> Identity:
    return Identity(bytes.fromhex(seed))


@_cases("identity")
def test_a_seed_gives_its_user_id_and_keys(case: dict[str, Any]) -> None:
    """User id, X25519 public key and the keys of dispatch points follow from the seed alone."""
    identity = _identity(case["seed"])
    assert identity.user_id == case["user_id"]
    assert crypto_sign_ed25519_pk_to_curve25519(identity.public).hex() == case["x25519_public"]
    assert {point: point_key(identity, point).hex() for point in case["point_keys"]} == case["point_keys"]
    token_keys = case.get("token_keys", {})
    assert {queue: token_key(identity, *queue.split(".")).hex() for queue in token_keys} == token_keys


@_cases("uuid7")
def test_a_message_id_is_a_uuid_of_version_7(case: dict[str, Any]) -> None:
    """An id has 48 bits of time and 74 random bits, in the order of RFC 9562."""
    assert new_id(case["unix_ms"], bytes.fromhex(case["random"])) == case["id"]


@_cases("message")
def test_a_message_is_written_as_frozen_and_read_back(case: dict[str, Any]) -> None:
    """A body has the frozen bytes, without default fields, and is read back as the same message."""
    message = Message.model_validate(case["message"])
    assert message.to_bytes() == case["body"].encode()
    assert Message.from_bytes(case["body"].encode()) == message


@_cases("message", "reads")
def test_other_texts_of_a_message_mean_the_same(case: dict[str, Any]) -> None:
    """Order, white space, unknown fields and explicit defaults do not change the message."""
    assert Message.from_bytes(case["body"].encode()) == Message.model_validate(case["message"])


@_cases("message", "malformed")
def test_a_malformed_body_is_no_message(case: dict[str, Any]) -> None:
    """A malformed body is refused as a whole."""
    with pytest.raises(ValueError, match=r"."):
        Message.from_bytes(case["body"].encode())


@_cases("message", "sizes")
def test_a_body_has_at_most_700_000_bytes(case: dict[str, Any]) -> None:
    """Recipients refuse a larger body, whatever is in it."""
    body = (case["before"] + case["times"] * case["repeated"] + case["after"]).encode()
    with pytest.raises(ValueError, match="a body of") if case["malformed"] else nullcontext():
        assert Message.from_bytes(body).data["text"] == case["times"] * case["repeated"]


@_cases("bundle")
def test_sealing_gives_the_frozen_bundle(case: dict[str, Any]) -> None:
    """The same keys, nonce and bodies are sealed to the same bytes."""
    envelope = Envelope(_identity(case["sender_seed"]))
    bodies = [body.encode() for body in case["bodies"]]
    bundle = envelope.seal(BundleKind(case["kind"]), case["recipient"], bodies, bytes.fromhex(case["nonce"]))
    assert bundle.hex() == case["bundle"]


@_cases("bundle")
def test_opening_gives_what_was_sealed(case: dict[str, Any]) -> None:
    """The recipient reads the sender, the kind, the bodies, and a proof that a third party can check."""
    seeds = _load("bundle")["seeds"]
    sender = _identity(case["sender_seed"])
    opened = Envelope(_identity(seeds[case["recipient"]])).open(bytes.fromhex(case["bundle"]))
    assert (opened.sender, opened.kind) == (sender.user_id, case["kind"])
    assert [body.decode() for body in opened.bodies] == case["bodies"]
    assert opened.proof[:SIGNATURE_BYTES].hex() == case["signature"]
    assert bytes.fromhex(case["signed"]).endswith(opened.proof[SIGNATURE_BYTES:])
    assert verify(sender.public, bytes.fromhex(case["signature"]), bytes.fromhex(case["signed"]))


@_cases("bundle")
def test_the_parts_of_a_bundle_stand_where_the_protocol_says(case: dict[str, Any]) -> None:
    """Header, nonce and framed bodies have the offsets and lengths of docs/PROTOCOL.md."""
    bundle = bytes.fromhex(case["bundle"])
    assert bundle[:2] == bytes([1, case["kind"]])
    assert bundle[2:HEADER_BYTES] == _identity(case["sender_seed"]).public
    assert bundle[HEADER_BYTES : HEADER_BYTES + NONCE_BYTES].hex() == case["nonce"]
    assert len(bundle) == HEADER_BYTES + NONCE_BYTES + 16 + SIGNATURE_BYTES + len(case["framed"]) // 2
    assert framing.unpack(bytes.fromhex(case["framed"])) == [body.encode() for body in case["bodies"]]


def _notices() -> list[str]:
    """Return the bodies of all notices in the vectors."""
    cases = _load("bundle")["cases"]
    return [body for case in cases if case["kind"] == BundleKind.NOTICE for body in case["bodies"]]


@pytest.mark.parametrize("body", _notices())
def test_a_notice_is_read_and_written_as_frozen(body: str) -> None:
    """Each line of a notice is read and written, and the bytes are the frozen ones."""
    assert Notice.model_validate_json(body).to_bytes() == body.encode()


def test_every_field_is_in_a_vector() -> None:
    """At least one frozen case has each field of a message and of a notice (scripts/vector.py adds one)."""
    bodies: dict[type[Message | Notice], list[str]] = {
        Message: [case["body"] for case in _load("message")["cases"]],
        Notice: _notices(),
    }
    for model, written in bodies.items():
        names = {field.alias or name for name, field in model.model_fields.items()}
        assert names == {name for body in written for name in json.loads(body)}


@_cases("bundle")
def test_the_script_that_adds_vectors_seals_as_frozen(case: dict[str, Any]) -> None:
    """scripts/vector.py creates the frozen cases again from their names, bodies, nonces and keys."""
    seeds = (bytes.fromhex(case["sender_seed"]), bytes.fromhex(_load("bundle")["seeds"][case["recipient"]]))
    nonce = bytes.fromhex(case["nonce"])
    assert SCRIPT["bundle"](case["name"], BundleKind(case["kind"]), case["bodies"], nonce, seeds=seeds) == case


@_cases("refused")
def test_a_bundle_that_is_not_whole_is_refused_by_name(case: dict[str, Any]) -> None:
    """Each way to damage, forge or misdirect a bundle is refused with its own reason."""
    with pytest.raises(Refused) as refused:
        Envelope(_identity(case["recipient_seed"])).open(bytes.fromhex(case["bundle"]))
    assert refused.value.reason == case["reason"]


@dataclass
class _Delivery:
    topic: str
    payload: bytes
    retain: bool
    is_local: bool = True


class _Stopped:
    """A clock that does not advance."""

    def now(self) -> int:
        return int(_load("delivery")["now"])

    def elapsed(self) -> float:
        return 0.0


class _NoLink:
    """A link to a broker that is down."""

    connected = False
    max_packet = 1_048_576
    max_bundle = 1_048_576
    broker = "the broker"

    def why_not(self, topic: str) -> str:
        del topic
        return ""

    def keeps_order(self, topic: str) -> bool:
        del topic
        return False

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        del topic, payload, qos, retain
        return False

    def ack(self, delivery: Any) -> None:
        pass

    def flush(self) -> None:
        pass

    def subscribe(self, topics: Sequence[str]) -> None:
        pass


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Node]:
    """Bob's daemon without its sockets, with alice as a contact, at the time of the vectors."""
    vectors = _load("delivery")
    contacts = Contacts(tmp_path / "contacts.yaml")
    contacts.add("alice", vectors["contact"])
    identity = _identity(vectors["recipient_seed"])
    journal = Journal(tmp_path / "journal.sqlite3", identity.user_id, NoFaults())
    yield Node(
        identity=identity,
        journal=journal,
        contacts=contacts,
        link=_NoLink(),
        clock=_Stopped(),
        entropy=bytes,
        faults=NoFaults(),
    )
    journal.close()


@_cases("delivery")
def test_a_delivery_without_effect_is_counted_by_name(case: dict[str, Any], bob: Node) -> None:
    """A delivery that is sealed correctly and wrong otherwise is counted once with its reason, and has no effect."""
    bob.process_batch([_Delivery(case["topic"], bytes.fromhex(case["payload"]), case["retain"])])
    assert bob.journal.counters == {f"refused.{case['reason']}": 1}


@_cases("presence")
def test_a_retained_fact_is_signed_as_frozen_and_believed(case: dict[str, Any]) -> None:
    """Status and card have the frozen bytes, and a reader learns the fact."""
    sealed = presence.seal(_identity(case["seed"]), case["topic"], case["fact"])
    assert sealed.hex() == case["payload"]
    assert presence.open_signed(case["user"], case["topic"], sealed) == case["fact"]


@_cases("presence", "ignored")
def test_a_retained_fact_that_its_user_did_not_sign_is_ignored(case: dict[str, Any]) -> None:
    """A fact without that user's signature for that topic has no effect."""
    assert presence.open_signed(case["user"], case["topic"], bytes.fromhex(case["payload"])) is None


@_cases("channel")
def test_a_frame_opens_as_frozen(case: dict[str, Any]) -> None:
    """Daemon and worker read the header and blobs of the frozen frames."""
    opened = Channel(bytes.fromhex(case["key"])).open(case["topic"], bytes.fromhex(case["frame"]))
    assert opened == (case["header"], [blob.encode() for blob in case["blobs"]])


@_cases("channel")
def test_a_frame_is_sealed_as_frozen_but_for_its_nonce(case: dict[str, Any]) -> None:
    """A frame of ours, opened and sealed again with the frozen nonce, is the frozen frame."""
    key = bytes.fromhex(case["key"])
    frame = Channel(key).seal(case["topic"], case["header"], [blob.encode() for blob in case["blobs"]])
    plain = SecretBox(key).decrypt(frame)
    assert SecretBox(key).encrypt(plain, bytes.fromhex(case["nonce"])).hex() == case["frame"]


def _present(written: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
    """What was written, without empty fields that the frozen header, or its tasks, do not have."""
    present = {name: value for name, value in written.items() if value or name in frozen}
    if "tasks" in frozen:
        present["tasks"] = [_present(*pair) for pair in zip(written["tasks"], frozen["tasks"], strict=True)]
    return present


@_cases("channel")
def test_a_frame_is_read_and_written_as_frozen(case: dict[str, Any]) -> None:
    """The fields of the frozen headers survive reading and writing; fields that a header lacks are written empty."""
    blobs = [blob.encode() for blob in case["blobs"]]
    kind = WorkerFrame if isinstance(topics.parse(case["topic"]), topics.ResultsTopic) else DaemonFrame
    header, written = kind.read(case["header"], blobs).to_wire()
    assert _present(header, case["header"]) == case["header"]
    assert written == blobs


@_cases("channel")
def test_the_script_that_adds_vectors_seals_frames_as_frozen(case: dict[str, Any]) -> None:
    """scripts/vector.py makes the frozen frames again from their names, headers, blobs, nonces and keys."""
    key, nonce = bytes.fromhex(case["key"]), bytes.fromhex(case["nonce"])
    assert SCRIPT["frame"](case["name"], case["topic"], case["header"], case["blobs"], nonce, key=key) == case


@_cases("channel", "bad_frame")
def test_a_frame_of_anybody_else_is_refused(case: dict[str, Any]) -> None:
    """A frame of another key or topic, or a damaged one, is refused."""
    with pytest.raises(BadFrame):
        Channel(bytes.fromhex(case["key"])).open(case["topic"], bytes.fromhex(case["frame"]))


@_cases("token")
def test_a_worker_token_is_written_and_read_as_frozen(case: dict[str, Any]) -> None:
    """A token is the frozen text, and holds the enrolment."""
    fields = case["enrolment"]
    enrolment = Enrolment(
        fields["broker"], fields["user"], fields["point"], bytes.fromhex(fields["key"]), fields.get("id", "")
    )
    assert enrolment.token() == case["token"]
    assert channel.read_token(f" {case['token']}\n") == enrolment


@_cases("token", "refused")
def test_a_damaged_worker_token_is_refused(case: dict[str, Any]) -> None:
    """An incomplete token is a UsageError."""
    with pytest.raises(UsageError, match="not a complete worker token"):
        channel.read_token(case["token"])


@_cases("progress")
def test_a_reader_of_progress_notices_what_is_lost_and_what_begins_again(case: dict[str, Any]) -> None:
    """It has the text of each choice, and knows where a part of it is missing."""
    reader, texts, lost = Reader(), dict[str, str](), []
    for number, report in enumerate(case["reports"]):
        piece = reader.read(report)
        if piece.restarts and not piece.text:
            texts.clear()
        if piece.text:
            before = "" if piece.restarts else texts.get(str(piece.choice), "")
            texts[str(piece.choice)] = before + piece.text
        if piece.skips:
            lost.append(number)
    assert (texts, lost) == (case["texts"], case["lost"])


@_cases("form", "typed")
def test_what_is_typed_into_a_form_is_the_answer(case: dict[str, Any]) -> None:
    """The answer has the value and its text, and the asker reads the same value."""
    form = form_of(case["form"])
    assert form is not None
    answer = reply_data(form, form.parse(case["typed"]), "")
    assert answer == case["answer"]
    assert type(answer["value"]) is type(case["answer"]["value"])
    assert read_reply(form, answer).value == case["answer"]["value"]


@_cases("form", "misfits")
def test_an_answer_that_does_not_fit_its_form_is_none(case: dict[str, Any]) -> None:
    """The asker's user gets an error."""
    with pytest.raises(BadAnswer):
        read_reply(form_of(case["form"]), case["answer"])


@_cases("form", "refused")
def test_a_form_that_no_person_can_be_shown_is_refused(case: dict[str, Any]) -> None:
    """At both ends."""
    with pytest.raises(BadInput):
        form_of(case["form"])


@_cases("invitation")
def test_an_invitation_is_written_and_read_as_frozen(case: dict[str, Any]) -> None:
    """A line is the frozen text, and its id and the proof of who accepts it follow from its secret."""
    invitation = Invitation(
        case["user"], bytes.fromhex(case["secret"]), case["expires"], case["broker"], case["suggested"]
    )
    assert invitation.to_text() == case["line"]
    assert parse(case["line"]) == invitation
    assert (invitation.id, invitation.proof(case["acceptor"])) == (case["id"], case["proof"])


@_cases("invitation", "equal")
def test_a_text_with_an_invitation_is_read(case: dict[str, Any]) -> None:
    """Each holds the first of the frozen lines."""
    assert parse(case["text"]).to_text() == _load("invitation")["cases"][0]["line"]


@_cases("invitation", "refused")
def test_a_text_without_an_invitation_is_refused(case: dict[str, Any]) -> None:
    """Each has another mistake."""
    with pytest.raises(UsageError):
        parse(case["text"])


def test_the_words_of_two_users_are_as_frozen() -> None:
    """In either order."""
    for case in _load("invitation")["words"]:
        assert words_of(*case["users"]) == case["words"]


@_cases("file")
def test_a_bundle_about_a_file_is_sealed_and_read_as_frozen(case: dict[str, Any]) -> None:
    """Both sides write and read the frozen bytes; the header means what its fields say."""
    sender = _identity(case["sender_seed"])
    bodies = [body.encode() for body in case["bodies"]]
    sealed = Envelope(sender).seal(BundleKind.FILE, case["recipient"], bodies, bytes.fromhex(case["nonce"]))
    assert sealed.hex() == case["bundle"]
    recipient = next(
        found for seed in ("01" * 32, "02" * 32) if (found := _identity(seed)).user_id == case["recipient"]
    )
    opened = Envelope(recipient).open(sealed)
    assert (opened.sender, opened.kind, opened.bodies) == (sender.user_id, BundleKind.FILE, bodies)
    frame, content = file_frames.unpack(opened.bodies)
    assert file_frames.pack(frame, content) == bodies


@_cases("file", "references")
def test_a_reference_to_a_file_is_read_as_frozen(case: dict[str, Any]) -> None:
    """Wherever it stands in the data."""
    assert [reference._asdict() for reference in references_in(case["data"])] == case["found"]


@_cases("file", "malformed")
def test_a_malformed_reference_to_a_file_is_refused(case: dict[str, Any]) -> None:
    """And with it the request that holds it."""
    with pytest.raises(ValueError, match=r"."):
        references_in(case["data"])


def test_every_file_of_vectors_is_used() -> None:
    """A test reads every file of vectors."""
    source = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in VECTORS.glob("*.json") if f'"{path.stem}"' not in source] == []
