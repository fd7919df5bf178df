"""The method `contacts`: pages in the order of names, each of which costs no more than its length."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, control_of

from p2pflows import contact_names
from p2pflows.errors import UsageError
from p2pflows.protocol.identity import Identity
from p2pflowsd.api.methods import METHODS


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A daemon whose owner knows five people."""
    desk = Desk(tmp_path)
    for number, name in enumerate(["Zoe", "adam", "bob", "Carl", "Émile"], 1):
        desk.contacts.add(name, Identity(bytes([number]) * 32).user_id)
    return desk


def page(desk: Desk, **params: Any) -> tuple[list[str], str | None]:
    """Return the names of a page, and the next page."""
    found = asyncio.run(METHODS["contacts"].run(control_of(desk), params))
    return [each["name"] for each in found["contacts"]], found["next"]


def test_pages_have_all_contacts_in_the_order_of_names(desk: Desk) -> None:
    """Capitals make no difference; the last page has no next one, even if it is full."""
    assert page(desk) == (["adam", "bob", "Carl", "Zoe", "Émile"], None)
    assert page(desk, limit=2) == (["adam", "bob"], "bob")
    assert page(desk, limit=2, page="bob") == (["Carl", "Zoe"], "Zoe")
    assert page(desk, limit=2, page="Zoe") == (["Émile"], None)
    assert page(desk, limit=5) == (["adam", "bob", "Carl", "Zoe", "Émile"], None)


def test_a_page_goes_on_though_its_contact_has_gone(desk: Desk) -> None:
    """A contact who is removed between two pages leaves nobody else out."""
    desk.contacts.remove("bob")
    desk.contacts.rename("Carl", "carla")
    assert page(desk, page="bob") == (["carla", "Zoe", "Émile"], None)


def test_a_page_is_found_without_a_look_at_all_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among 5,000, a page compares a few names."""
    desk = Desk(tmp_path)
    path = tmp_path / "contacts.yaml"
    path.write_text("contacts:\n" + "".join(f"  person-{n:04}: {n:063x}a\n" for n in range(5_000)))
    path.chmod(0o600)
    desk.contacts.reload_if_changed()
    compared: list[str] = []
    order = contact_names.order

    def counted(name: str) -> tuple[str, str]:
        compared.append(name)
        return order(name)

    monkeypatch.setattr(contact_names, "order", counted)
    assert page(desk, limit=2, page="person-4000") == (["person-4001", "person-4002"], "person-4002")
    assert len(compared) < 20


@pytest.mark.parametrize("limit", [0, 1_001, "2"])
def test_a_page_has_a_limit(desk: Desk, limit: object) -> None:
    """Nobody asks for all of 100,000 contacts at once."""
    with pytest.raises(UsageError, match="a whole number from 1 to 1000"):
        page(desk, limit=limit)
