"""The public unions of events: each member is exported by its package, so that a ``match`` can name it."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import pytest

import mailauth
from mailauth import pop3, sasl, smtp


def classes(union: Any) -> list[type[object]]:
    """Return the members of *union*, without their type arguments."""
    members = [get_origin(member) or member for member in get_args(union)]
    assert all(isinstance(member, type) for member in members)
    return members


@pytest.mark.parametrize(
    ("package", "union"),
    [
        (mailauth, mailauth.Action),
        (smtp, smtp.ServerEvent),
        (smtp, smtp.ClientEvent),
        (pop3, pop3.ServerEvent),
        (pop3, pop3.ClientEvent),
        (sasl, sasl.ServerQuestion),
    ],
)
def test_each_member_of_a_union_is_exported(package: Any, union: Any) -> None:
    """By the package of the union, or by one of the two that both protocols share."""
    exported = {id(getattr(home, name)) for home in (package, mailauth, sasl) for name in home.__all__}
    assert len(classes(union)) > 1
    assert [member.__name__ for member in classes(union) if id(member) not in exported] == []
