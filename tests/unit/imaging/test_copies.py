"""Copies of pairs: their names, their rows, and what is added to their exposures."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from astrid.core.dq import DQ
from astrid.core.records import Calibrated
from astrid.imaging.copies import Added, added_sources, copy_names, copy_rows, joined_truth
from support import skies


@pytest.fixture(scope="module")
def exposure() -> Calibrated:
    return skies.make_pair(seed=2, shape=(80, 80), count=10, given=True).science


def pairs(*ids: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{"pair_id": f"{new}__{old}", "science_id": new, "reference_id": old, "mjd": 59000.0} for new, old in ids])


def truth(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame([{"exposure_id": name, "x": 40.0, "y": 30.0, "flux": flux, "width": 1.0} for name, flux in rows])


def test_an_exposure_of_two_pairs_has_another_name_in_each():
    assert copy_names(("a", "r"), 1) == ("a-inj1-r", "r-inj1-a")
    names = [name for new in ("a", "b") for copy in range(2) for name in copy_names((new, "r"), copy)]
    assert len(set(names)) == 8


def test_the_chosen_pairs_get_rows_of_their_own_names():
    rows = copy_rows(pairs(("a", "r"), ("b", "r")), {"b__r"}, 2)
    assert rows["pair_id"].tolist() == ["b__r-inj0", "b__r-inj1"]
    assert rows["science_id"].tolist() == ["b-inj0-r", "b-inj1-r"]
    assert rows["reference_id"].tolist() == ["r-inj0-b", "r-inj1-b"]
    assert rows["mjd"].tolist() == [59000.0] * 2
    assert len(copy_rows(pairs(("a", "r")), set(), 2)) == len(copy_rows(pairs(("a", "r")), {"a__r"}, 0)) == 0


def test_each_exposure_has_what_shines_in_it():
    copies = copy_rows(pairs(("a", "r")), {"a__r"}, 1)
    added = added_sources(copies, truth(("a-inj0-r", 9.0), ("a-inj0-r", 0.0), ("other", 5.0)))
    assert added == {"a-inj0-r": Added("a-inj0-r", ((40.0, 30.0, 9.0, 1.0),)), "r-inj0-a": Added("r-inj0-a", ())}
    assert added_sources(copies, joined_truth([])) == {name: Added(name, ()) for name in added}


def test_sources_are_added_under_the_copys_name_with_the_same_noise_every_time(exposure):
    bare = Added("copy", ()).to(exposure, np.zeros)
    assert bare.info.exposure_id == "copy"
    assert bare.data is exposure.data
    one = Added("copy", ((40.0, 30.0, 5000.0, 1.0),))
    first, again = (item.to(exposure, np.zeros) for item in (one, pickle.loads(pickle.dumps(one))))
    np.testing.assert_array_equal(first.data, again.data)
    assert (first.data - exposure.data).sum() == pytest.approx(5000.0, rel=0.1)
    assert first.dq[30, 40] & np.uint32(DQ.INJECTED)
    other = Added("another", one.sources).to(exposure, np.zeros)
    assert (other.data != first.data).any()


def test_a_table_without_rows_has_the_further_columns():
    assert {"fading", "aimed_snr", "width", "host_dlr", "flux_ratio"} <= set(joined_truth([]).columns)
    assert len(joined_truth([truth(("a", 1.0)), truth(), truth(("b", 2.0))])) == 2
