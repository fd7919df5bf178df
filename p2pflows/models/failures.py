"""Why a model server gave no answer: the cause in full for the owner of the flow, and a plain sentence for the caller.

The caller reads no addresses, no advice about keys, and nothing that the provider says.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from p2pflows.errors import FlowFailed
from p2pflows.foreign_text import shorten
from p2pflows.models.answers import BadAnswer, ServerError, UnreadableAnswer, error_in
from p2pflows.models.keyring import GIVE_THE_WORKER_A_KEY

MAX_RETRY_AFTER_S = 120.0
"""A server that asks for a longer pause is not asked again."""

_MAX_REASON_CHARS = 300
_AS_OWNER = "Its owner finds the cause in: p2pflows log"


class Cause(enum.Enum):
    """What a caller is told of a failure: a sentence, and what to do. The first ones say most."""

    TOO_LONG = ("The conversation is too long for the model.", "Begin a new one, or reset the instance.")
    NO_PICTURES = ("The model takes no pictures.", "Send your question without them.")
    WITHHELD = ("The model's server does not answer this question.", "Ask in other words.")
    BUSY = ("The model's server takes no more questions now.", f"Try again later. {_AS_OWNER}")
    NO_ANSWER = ("The model gave no answer.", f"Try again later. {_AS_OWNER}")
    UNREACHABLE = ("The model's server cannot be reached.", f"Try again later. {_AS_OWNER}")
    NOT_SET_UP = ("The model cannot be asked, as its owner has to correct something first.", _AS_OWNER)


class ModelFailed(FlowFailed):
    """No model gave an answer.

    Args:
        cause: what the caller is told.
        details: the whole cause, for the owner of the flow only.
        max_tokens: how many tokens the model reads at most, if it said so when the conversation was too long.
    """

    def __init__(self, cause: Cause, details: str, max_tokens: int | None = None) -> None:
        super().__init__(*cause.value)
        self.cause = cause
        self.details = details
        self.max_tokens = max_tokens


class Remedy(enum.Enum):
    """What may help after a failed attempt."""

    AGAIN = enum.auto()
    """To ask the same server again, after a pause."""
    SOON = enum.auto()
    """To ask another server; if there is none, the same one a few times, as it may be restarting."""
    ELSEWHERE = enum.auto()
    """To ask another server, or to use another key: this one will not answer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. It keeps no exception, as that would keep the request, and so the key.

    Args:
        cause: what the caller is told.
        reason: the cause in full, as part of a sentence.
        hint: what the owner can do.
        remedy: what may help.
        retry_after: seconds that the server asks to wait.
        is_unreadable: whether the answer had a form that nobody can read.
        refuses_format: whether the server does not know the `response_format` of the request.
        max_tokens: how many tokens the model reads at most, if it said so.
    """

    cause: Cause
    reason: str
    hint: str
    remedy: Remedy = Remedy.ELSEWHERE
    retry_after: float | None = None
    is_unreadable: bool = False
    refuses_format: bool = False
    max_tokens: int | None = None


def explain(
    error: Exception,
    request: Mapping[str, Any],
    *,
    base: str,
    redact: Callable[[str], str],
    wall: Callable[[], float] = time.time,
) -> Failure:
    """Explain why an attempt failed.

    Args:
        error: an `OpenAIError` or a BadAnswer.
        request: the parameters of the request.
        base: the URL of the server.
        redact: replaces keys in the words of a server.
        wall: returns seconds since the Unix epoch, for servers that name a point in time.
    """
    from openai import APIConnectionError, APIStatusError

    match error:
        case APIStatusError():
            body = error_in(error.body)
            said = _words_in(body) or str(error)
            status = error.status_code
            wait = _retry_after(error.response.headers, wall)
            return _refusal(status, body, _on_one_line(redact(said)), request, wait)
        case ServerError(body=body):
            status = _status_in(body)
            said = _on_one_line(redact(str(error)))
            return _refusal(status, body, said, request, None)
        case BadAnswer():
            return Failure(
                Cause.NO_ANSWER,
                _on_one_line(redact(str(error))),
                f"Check that {base} is the URL of a model server; most end in /v1.",
                Remedy.AGAIN,
                is_unreadable=isinstance(error, UnreadableAnswer),
            )
        case APIConnectionError():
            return _no_connection(error, base)
    return Failure(Cause.NO_ANSWER, _on_one_line(redact(str(error))), "", Remedy.AGAIN)


def _no_connection(error: Exception, base: str) -> Failure:
    """Explain why a server cannot be reached, or hung up."""
    chain = list(_chain(error))
    for each in chain:
        if isinstance(each, OSError) and (found := _unreachable(each, base)) is not None:
            return found
    names = {type(each).__name__ for each in chain}
    reachable = _reachable(base)
    if "ConnectTimeout" in names:
        return Failure(Cause.UNREACHABLE, "it accepts no connection (timed out)", reachable, Remedy.SOON)
    if "ReadTimeout" in names:
        return Failure(Cause.NO_ANSWER, "it was silent for too long", "Raise backend.timeout.", Remedy.AGAIN)
    if base.startswith("http://"):
        hint = f"If that server speaks TLS, write https:// in place of http:// in {base}."
        if any(_TLS_ALERT in str(each) for each in chain):
            return Failure(Cause.UNREACHABLE, "it answers in TLS", hint)
        if names & {"RemoteProtocolError", "ReadError", "WriteError"}:  # which one depends on who is faster
            return Failure(Cause.NO_ANSWER, "it hung up without an answer", hint, Remedy.AGAIN)
    return Failure(Cause.NO_ANSWER, "its connection broke", reachable, Remedy.AGAIN)


def _unreachable(error: OSError, base: str) -> Failure | None:
    """Explain why there is no connection to a server; None if this error does not say it."""
    reason, hint, remedy = "", _reachable(base), Remedy.SOON
    match error:
        case ssl.SSLCertVerificationError():
            reason, remedy = f"its certificate is not trusted ({error.verify_message})", Remedy.ELSEWHERE
            hint = "Give the worker the certificate of its authority: ca_file in config.yaml, or worker --ca-file."
        case ssl.SSLError():
            reason, remedy = f"it does not answer in TLS ({error.reason or 'no handshake'})", Remedy.ELSEWHERE
            hint = f"If that server speaks plain HTTP, write http:// in place of https:// in {base}."
        case ConnectionRefusedError():
            reason = "nothing listens there (connection refused)"
        case socket.gaierror(errno=socket.EAI_AGAIN):
            reason = "its name cannot be looked up now"
        case socket.gaierror():
            reason, hint, remedy = "there is no host of that name", f"Check the URL: {base}", Remedy.ELSEWHERE
        case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH):
            reason = "no network leads to it"
    return Failure(Cause.UNREACHABLE, reason, hint, remedy) if reason else None


def _reachable(base: str) -> str:
    return f"Check that a model answers at {base}, and that the worker reaches it."


def _refusal(status: int, body: Any, said: str, request: Mapping[str, Any], retry_after: float | None) -> Failure:
    """Explain an error that the server sent.

    Args:
        status: the HTTP status, or the one in the body of an answer with status 200; 0 if there is none.
        body: the error, as the server wrote it.
        said: the server's words on one line, without keys.
        request: the parameters of the request.
        retry_after: seconds that the server asks to wait.
    """
    number = f" ({status})" if status else ""
    words = f"{_code_in(body)} {said}"
    if status in (401, 403) or _code_in(body) == "invalid_api_key":
        # The server's words may show a part of the key.
        return Failure(Cause.NOT_SET_UP, f"the worker's key was refused{number}", GIVE_THE_WORKER_A_KEY)
    reason = f"{said}{number}"
    about_question = _refused_question(status, words, reason, body, request)
    if about_question is not None:
        return about_question
    is_patient = (retry_after or 0.0) <= MAX_RETRY_AFTER_S
    again = Remedy.AGAIN if is_patient else Remedy.ELSEWHERE
    if status == 402 or _QUOTA.search(words):  # noqa: PLR2004 - payment required
        return Failure(Cause.BUSY, reason, "Pay, or raise the quota, at the model's provider.", retry_after=retry_after)
    if status == 429:  # noqa: PLR2004 - too many requests
        hint = "Wait, raise the limit at the model's provider, or give the worker more keys."
        return Failure(Cause.BUSY, reason, hint, again, retry_after)
    if status in (0, 408, 409) or status >= 500:  # noqa: PLR2004 - the server's own errors
        return Failure(Cause.NO_ANSWER, reason, "Try again later.", again, retry_after)
    return Failure(Cause.NOT_SET_UP, reason, _HINTS.get(status, _HINTS[400]))


def _refused_question(status: int, words: str, reason: str, body: Any, request: Mapping[str, Any]) -> Failure | None:
    """Explain an error that is about what was asked; None if it is about something else."""
    if status == 413 or (status != 429 and _TOO_LONG.search(words)):  # noqa: PLR2004 - too large, but not too often
        hint = "Set previous_messages.context_tokens, or give the model a larger context."
        return Failure(Cause.TOO_LONG, reason, hint, max_tokens=_max_tokens_in(body, reason))
    if _has_pictures(request) and _ABOUT_PICTURES.search(words):
        return Failure(Cause.NO_PICTURES, reason, "Choose a model that reads pictures.")
    if "response_format" in request and _ABOUT_FORMAT.search(words):
        return Failure(Cause.NOT_SET_UP, reason, "Leave out response_format.", refuses_format=True)
    if _WITHHELD.search(words):
        return Failure(Cause.WITHHELD, reason, "Ask in other words.")
    return None


_HINTS = {
    400: "Check the model's name and the settings in the flow's config.",
    **dict.fromkeys((301, 302, 303, 307, 308), "Give the worker the URL that this one redirects to."),
    **dict.fromkeys((404, 405), "Check the model's name, and the URL that the worker has: most end in /v1."),
}
_TLS_ALERT = "\\x15\\x03"
"""How the alert of a TLS server begins, in the text of an error."""
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context|context (length|size|window)"
    r"|prompt is too long|(input|prompt|request)[^.]* too (long|many tokens)|too many (input )?tokens"
    r"|maximum (prompt|input|model) length|maximum number of tokens allowed|\binputs\b[^.]* must (be <=|have less than)"
    r"|request (entity )?too large|payload too large",
    re.IGNORECASE,
)
_LIMITS = re.compile(
    r"(?:maximum|max|limit|available|context)[a-z_ ]*(?:length|size|window)?[^0-9.]{0,20}?(\d{2,8})", re.IGNORECASE
)
_ABOUT_PICTURES = re.compile(r"image|picture|vision|multi-?modal|mmproj|content.*(string|str\b)", re.IGNORECASE)
_ABOUT_FORMAT = re.compile(r"response_?format|json_?schema|structured|grammar|guided", re.IGNORECASE)
_WITHHELD = re.compile(r"content_filter|content_policy|content management policy|responsible_?ai", re.IGNORECASE)
_QUOTA = re.compile(
    r"insufficient_quota|quota[^.]*exceeded|exceeded[^.]*quota|billing|insufficient.balance", re.IGNORECASE
)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def _words_in(body: Any) -> str | None:
    """Return a server's own words in the body of its error, of which `openai` has taken off the `error` around it."""
    match body:
        case str(text) if text.strip():
            return text
        case {"message": str(text)} | {"error": str(text)} if text:
            return text
        case {"detail": detail} if detail:
            return detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
        case dict() | list() if body:
            return json.dumps(body, ensure_ascii=False)
    return None


def _code_in(body: Any) -> str:
    match body:
        case {"code": str(code)} | {"type": str(code)} if code:
            return code
    return ""


def _status_in(body: Any) -> int:
    match body:
        case {"code": int(status) | str(status)} if str(status).isdecimal():
            return int(status)
    return 0


def _max_tokens_in(body: Any, said: str) -> int | None:
    match body:
        case {"n_ctx": int(size)} if size > 0:
            return size
    found = _LIMITS.search(said)
    return int(found[1]) if found else None


def _has_pictures(request: Mapping[str, Any]) -> bool:
    return any(not isinstance(message.get("content"), str) for message in request.get("messages", ()))


def _on_one_line(text: str) -> str:
    """Return the words of a server as one line, in which nothing controls a terminal."""
    return shorten(" ".join(text.split()), _MAX_REASON_CHARS).rstrip(".")


def _retry_after(headers: Any, wall: Callable[[], float]) -> float | None:
    """Return the seconds that a server asks to wait, from either form of the header (RFC 9110, section 10.2.3)."""
    text = headers.get("retry-after")
    if text is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall())
    return None
