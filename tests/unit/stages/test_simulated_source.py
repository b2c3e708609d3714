from __future__ import annotations

import tracemalloc
from pathlib import Path

import pandas as pd

from astrid.core.runtime import write_json
from astrid.io.table_parts import write_parts
from astrid.io.tables import TRUTH, read_table
from astrid.stages.common import Job
from astrid.stages.sources.simulated import truth_of

ROWS = 150  # of an exposure


def finished(folder: Path, exposures: int) -> list[Job]:
    """Jobs with the records that rendering leaves."""
    jobs = [Job(f"e{number}", "d", folder / f"e{number}.fits") for number in range(exposures)]
    for job in jobs:
        row = {"kind": "cosmic_ray", "exposure_id": job.key, "s_ra": 10.0, "s_dec": None, "simulated": True}
        truth = [row | {"object_id": f"{job.key}-{number}"} for number in range(ROWS)]
        write_json(job.record, {"row": {"exposure": {}, "truth": truth}})
    return jobs


def test_truth_comes_whole_and_in_order(tmp_path: Path) -> None:
    frame = pd.concat(truth_of(finished(tmp_path, 37)), ignore_index=True)
    assert list(frame["object_id"]) == [f"e{exposure}-{number}" for exposure in range(37) for number in range(ROWS)]
    assert list(frame.columns) == [column.name for column in TRUTH.columns]
    assert frame["s_dec"].isna().all()


def test_a_survey_of_many_exposures_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    jobs = finished(tmp_path / "raw", 256)
    peaks = []
    for count in (32, 256):
        tracemalloc.start()
        write_parts(truth_of(jobs[:count]), tmp_path / "truth.parquet", TRUTH)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(read_table(tmp_path / "truth.parquet", TRUTH)) == 256 * ROWS
    assert peaks[1] < 1.5 * peaks[0]
