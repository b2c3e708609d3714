from __future__ import annotations

import pytest

from astrid.core.copies import copy_id, is_copy, parent_of


@pytest.mark.parametrize(
    ("name", "partner", "copied"),
    [("a__b", "", "a__b-inj12"), ("a", "b", "a-inj12-b"), ("a-injured", "b-i", "a-injured-inj12-b-i")],
)
def test_a_copy_knows_its_parent(name, partner, copied):
    assert copy_id(name, 12, partner) == copied
    assert parent_of(copied) == name
    assert is_copy(copied)
    assert not is_copy(name)
    assert parent_of(name) == name


def test_a_candidate_of_a_copy_is_one_of_its():
    assert is_copy("a__b-inj0:00003")
    assert parent_of("a__b-inj0:00003") == "a__b"
    assert not is_copy("a__b:00003")
    assert not is_copy("inj7")
    assert not is_copy("a-inj")
