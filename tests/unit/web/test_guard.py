"""What a request must show: requests of other pages, of other ports and under other names are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pflows.errors import UsageError
from p2pflows.settings.web import WebSettings
from p2pflows.web.guard import HEADERS, Headers, Refused, check_host, check_origin
from p2pflows.web.place import Place

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
OURS = Headers("127.0.0.1:8643", "http://127.0.0.1:8643", "same-origin", "application/json")


def test_our_own_page_may_ask() -> None:
    """Browsers differ in what they say; older ones send no Sec-Fetch-Site."""
    for headers in (
        OURS,
        OURS._replace(fetch_site=None),
        OURS._replace(content_type="application/json; charset=utf-8"),
    ):
        check_host(headers, LOCAL)
        check_origin(headers, changes=True)
    check_origin(OURS._replace(origin=None), changes=False)
    check_host(OURS._replace(host="[::1]:8643"), LOCAL)
    check_host(OURS._replace(host="LOCALHOST:8643"), LOCAL)


@pytest.mark.parametrize(
    "host",
    ["evil.example:8643", "127.0.0.1.evil.example", "", "localhost@evil", "evil.localhost", "[::1].evil", "127.1"],
)
def test_a_name_that_leads_here_by_a_trick_is_refused(host: str) -> None:
    """DNS rebinding: the page of evil.example asks evil.example, which is this machine by now."""
    with pytest.raises(Refused) as refused:
        check_host(OURS._replace(host=host), LOCAL)
    assert refused.value.status == 421
    assert "--host" in refused.value.hint


@pytest.mark.parametrize(
    "headers",
    [
        OURS._replace(origin="https://evil.example"),
        OURS._replace(origin="http://127.0.0.1:9999", fetch_site="same-site"),
        OURS._replace(origin="http://127.0.0.1:9999", fetch_site=None),
        OURS._replace(origin="null"),
        OURS._replace(origin=None),
        OURS._replace(fetch_site="cross-site"),
        OURS._replace(fetch_site="none"),
        OURS._replace(origin="http://127.0.0.1:8643.evil.example"),
    ],
)
def test_a_page_of_another_origin_changes_nothing(headers: Headers) -> None:
    """Not even one of another port of this machine, to which browsers send the same cookies."""
    with pytest.raises(Refused) as refused:
        check_origin(headers, changes=True)
    assert refused.value.status == 403


def test_a_page_of_another_origin_cannot_look_on() -> None:
    """The stream of events is a GET."""
    with pytest.raises(Refused):
        check_origin(OURS._replace(fetch_site="cross-site", origin=None), changes=False)
    with pytest.raises(Refused):
        check_origin(OURS._replace(origin="http://evil.example", fetch_site=None), changes=False)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_cannot_stand_for_json(content_type: str) -> None:
    """Browsers send these to any server without asking it."""
    with pytest.raises(Refused) as refused:
        check_origin(OURS._replace(content_type=content_type), changes=True)
    assert refused.value.status == 415


def test_nothing_runs_that_is_not_a_file_of_the_page() -> None:
    """No inline script or style, no other address, no frame around the page."""
    policy = dict(part.strip().partition(" ")[::2] for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:8643", "192.168.1.7:80", "[::]:0", "pi.lan:8643", "localhost.evil.example:1"]
)
def test_other_machines_need_tls(listen: str) -> None:
    """The error says how to get a certificate, or to do without."""
    with pytest.raises(UsageError, match="without TLS") as refused:
        Place.of(WebSettings(listen=listen))
    assert "--cert" in refused.value.hint
    assert "ssh -L" in refused.value.hint


def test_a_certificate_comes_with_its_key_and_a_name(tmp_path: Path) -> None:
    """What does not fit together is said before anything listens."""
    with pytest.raises(UsageError, match="go together"):
        Place.of(WebSettings(cert="a.pem"))
    with pytest.raises(UsageError, match="all addresses"):
        Place.of(WebSettings(listen="0.0.0.0:1", cert="a.pem", key="b.pem"))
    with pytest.raises(UsageError, match="cannot be used"):
        Place.of(WebSettings(listen="pi.lan:1", cert=f"{tmp_path}/none.pem", key=f"{tmp_path}/none.key"))


def test_the_names_are_those_of_this_machine_and_those_that_were_given() -> None:
    """A proxy in front of the page has a name of its own."""
    assert Place.of(WebSettings()).names == LOCAL
    place = Place.of(WebSettings(hosts=["Pi.example.org"], address="https://pi.example.org"))
    assert place.names == LOCAL | {"pi.example.org"}
    assert place.url(1) == "https://pi.example.org"
    assert Place.of(WebSettings(listen="[::1]:0")).url(7) == "http://[::1]:7"


@pytest.mark.parametrize("listen", ["", "x", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_an_address_of_another_form_is_refused(listen: str) -> None:
    """The error has an example."""
    with pytest.raises(UsageError, match="no address to listen at"):
        Place.of(WebSettings(listen=listen))
