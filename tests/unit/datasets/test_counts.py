from astrid.datasets.counts import added


def test_counts_are_added_where_both_have_them() -> None:
    first = {"all": 3, "by": {"a": 1}, "names": ["x"], "found": None}
    second = {"all": 4, "by": {"a": 2, "b": 5}, "names": ["x"], "found": None, "new": {"c": 1}}
    assert added(first, second) == {"all": 7, "by": {"a": 3, "b": 5}, "names": ["x"], "found": None, "new": {"c": 1}}
    assert added({}, second) == second
    assert first == {"all": 3, "by": {"a": 1}, "names": ["x"], "found": None}
