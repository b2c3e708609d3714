"""The reader on every real packet at hand: each row of the index is found, and nothing else stops it."""

import pandas as pd
import pytest

from astrid.core.records import Triplet
from astrid.io.alerts import read_alerts


@pytest.fixture(scope="module")
def readings(shared_data):
    return list(read_alerts([shared_data / "alerts"]))


def relative(source, shared_data):
    return str(source).removeprefix(f"{shared_data / 'alerts'}/")


def test_every_alert_of_the_index_is_a_triplet_or_a_problem_with_its_size(readings, shared_data):
    index = pd.read_csv(shared_data / "alerts" / "index.csv", dtype={"candid": str})
    scored = {(relative(r.meta["source"], shared_data), r.candidate_id) for r in readings if isinstance(r, Triplet)}
    identified = [r for r in readings if not isinstance(r, Triplet) and hasattr(r, "candidate_id")]
    refused = {(relative(r.source, shared_data), r.candidate_id): r.reason for r in identified}
    for row in index.itertuples():
        key = (row.file, "0" if row.file.endswith("turbo_alerts/1.avro") else row.candid)  # the index takes candid 0 for absent
        if row.sci_shape in ("63x63", "61x61", "81x81"):
            assert key in scored, key
        else:
            assert row.sci_shape in refused[key]


def test_broken_and_foreign_files_are_named_and_the_rest_is_read(readings, shared_data):
    triplets = [r for r in readings if isinstance(r, Triplet)]
    problems = [r for r in readings if not isinstance(r, Triplet)]
    assert (len(triplets), len(problems)) == (756, 50)
    for problem in problems:
        assert problem.reason.endswith(".")
        assert "\n" not in problem.reason
    named = {relative(p.source, shared_data).split("/")[-1] for p in problems}
    assert {"test_alerts_Ia_Hsiao_v2_51.avro", "121540793515135000.avro", "ZTF20abyfpze.avro"} <= named


def test_difference_stamps_of_ztf_are_positive_at_the_source_for_both_signs(readings):
    for sign in (1, -1):
        ztf = [r.stamps for r in readings if isinstance(r, Triplet) and r.survey == "ZTF" and r.sign == sign]
        positive = [s[2, 29:34, 29:34].mean() > 0 for s in ztf]
        assert len(ztf) > 200
        assert sum(positive) > 0.95 * len(ztf)
