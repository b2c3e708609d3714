"""Alert packets as a source: the packets are copied under the name of their content, with a table of everything that they hold.

    data/raw/alerts/<first two digits>/<SHA-256>.avro   the packets and archives, byte for byte
    data/raw/alerts/tables/*.parquet                    ALERTS of some files each, so that a killed run goes on
    data/raw/alerts.parquet                             ALERTS of all
    data/raw/evidence.parquet                           LABELS: what the rules of the configuration say of them

There is no exposure and no pair.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from astrid.config.schema import SurveyConfig
from astrid.config.schema.archive import AlertsConfig
from astrid.core.errors import ConfigError, InputError
from astrid.core.provenance import digest_bytes, digest_code, digest_file, digest_settings
from astrid.core.records import Problem
from astrid.core.runtime import atomic_path, log, track
from astrid.datasets.evidence import Rule, check_columns, evidence_labels, in_conflict, parse_rule
from astrid.io.alert_table import ALERTS, PACKET
from astrid.io.tables import EXPOSURES, LABELS, conform, write_table
from astrid.stages.common import ALERTS_PATH, EVIDENCE_PATH, Job, executor, resume
from astrid.stages.sources.base import RAW, Acquired, job_files

CODE = ("astrid.io.alerts", "astrid.io.alert_table", "astrid.io.cutouts", "astrid.sky.alert_survey")
REPEATED = "repeated"

_FILES_A_JOB = 200
_ROWS_A_BLOCK = 4096  # rows of a table in memory as records
_NAMED = 200  # alerts that were set aside and are named; the table has all
_ARROW = {"str": pa.string(), "float": pa.float64(), "int": pa.int64(), "bool": pa.bool_()}
_SCHEMA = pa.schema([(column.name, _ARROW[column.kind]) for column in ALERTS.columns])
_KEYS = ("candidate_id", "candid", "survey")


def alerts(survey: SurveyConfig) -> Acquired:
    """Copy the packets of `survey.alerts.root`, read every alert once, and apply the rules to the evidence."""
    cfg = survey.alerts
    if cfg is None:
        raise ConfigError("survey.alerts is null but survey.kind is alerts; set survey.alerts.root and the rest.")
    real, bogus = (_rules(rules) for rules in (cfg.real, cfg.bogus))
    evidence = read_evidence(cfg, (*real, *bogus))  # first: a rule that does not hold is known before anything is copied
    jobs, copies = _jobs(cfg)
    resume(_read_job, jobs, description="alerts", unit="batches of files", executor=executor())
    table = conform(pd.concat([pd.read_parquet(job.output) for job in jobs], ignore_index=True), ALERTS, source=cfg.root)
    table = set_repeated_aside(table)
    if not table["scorable"].any():
        raise InputError(f"none of the {len(table)} alerts under {cfg.root} can be used; the first: {table['reason'].iloc[0]}")
    labels = label(table, evidence, real, bogus, cfg.confidence)
    write_table(table, ALERTS_PATH, ALERTS)
    write_table(labels, EVIDENCE_PATH, LABELS)
    used = table["scorable"]
    log.info("alerts: %d files, %d readings, %d usable, %d set aside", len(copies), len(table), int(used.sum()), int((~used).sum()))
    files = (*job_files(jobs), *(RAW / name for name in copies), ALERTS_PATH, EVIDENCE_PATH)
    return Acquired(EXPOSURES.empty(), (), files, _problems(table), alerts=int(used.sum()), needs_pairs=False)


def _rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    return tuple(parse_rule(text) for text in texts)


def _jobs(cfg: AlertsConfig) -> tuple[list[Job], list[str]]:
    """Batches of files to read, and the names of all copies below data/raw."""
    from astrid.sky.alert_survey import packets

    found = packets(Path(cfg.root))
    _say_passed_over(Path(cfg.root), {path for path, _ in found})
    named = [(path, name, digest_file(path)) for path, name in track(found, "digests of the packets", unit="files")]
    common = (digest_settings({"contrast": cfg.noise_contrast}), digest_code(CODE))
    jobs = []
    for first in range(0, len(named), _FILES_A_JOB):
        batch = [(path, name, digest, _copy_name(path, digest)) for path, name, digest in named[first : first + _FILES_A_JOB]]
        digest = digest_bytes(*(part.encode() for part in (*common, *(f"{name} {sha}" for _, name, sha, _ in batch))))
        job = Job(f"{first}", digest, RAW / "alerts" / "tables" / f"{digest[:20]}.parquet", (batch, cfg.noise_contrast))
        if not all(_is_copied(path, copy) for path, _, _, copy in batch):
            job.record.unlink(missing_ok=True)  # a copy was lost: its batch is done again
        jobs.append(job)
    return jobs, sorted({copy for job in jobs for _, _, _, copy in job.payload[0]})


def _say_passed_over(root: Path, found: set[Path]) -> None:
    others = sorted(path for path in root.rglob("*") if path.is_file() and path not in found)
    if others:
        log.info("alerts: %d files are no packets by their names, such as %s", len(others), others[0].relative_to(root))


def _copy_name(path: Path, digest: str) -> str:
    name = path.name.lower()
    suffix = next((suffix for suffix in (".tar.gz", ".tar.bz2", ".tar.xz") if name.endswith(suffix)), Path(name).suffix)
    return f"alerts/{digest[:2]}/{digest}{suffix}"


def _is_copied(path: Path, copy: str) -> bool:
    target = RAW / copy
    return target.is_file() and target.stat().st_size == path.stat().st_size


def _read_job(job: Job) -> Mapping[str, Any]:
    """Copy the files of a batch and write the table of their alerts, some thousand rows in memory at a time."""
    batch, contrast = job.payload
    rows = _batch_rows(batch, contrast)
    count = 0
    with atomic_path(job.output) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        while block := list(islice(rows, _ROWS_A_BLOCK)):
            writer.write_table(_arrow(block))
            count += len(block)
    return {"alerts": count}


def _arrow(rows: list[dict[str, Any]]) -> pa.Table:
    frame = conform(pd.DataFrame(rows), ALERTS, source="the alerts")
    return pa.Table.from_pandas(frame, schema=_SCHEMA, preserve_index=False).replace_schema_metadata(None)


def _batch_rows(batch: Sequence[tuple[Path, str, str, str]], contrast: float) -> Iterator[dict[str, Any]]:
    from astrid.io.alerts import read_alerts
    from astrid.sky.alert_survey import alert_rows

    for path, name, digest, copy in batch:
        target = RAW / copy
        if not _is_copied(path, copy):
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
                if digest_file(temporary) != digest:
                    raise InputError(f"{path} changed while it was copied; run the stage again when it is whole.")
        found = False
        for row in alert_rows(read_alerts([target]), target, name, contrast=contrast):
            found = True
            yield {**row, "file": copy, "digest": digest}
        if not found:
            nothing = [Problem(str(target), "the file holds no alert.")]
            yield from ({**row, "file": copy, "digest": digest} for row in alert_rows(nothing, target, name, contrast=contrast))


def set_repeated_aside(table: pd.DataFrame) -> pd.DataFrame:
    """The ALERTS table with every usable alert but the first of its id set aside."""
    used = table["scorable"].to_numpy(dtype=bool)
    twice = used.copy()
    twice[used] = table["candidate_id"][used].duplicated().to_numpy()
    first = table[used].drop_duplicates("candidate_id").set_index("candidate_id")["source"]
    out = table.copy()
    out.loc[twice, "problem"] = REPEATED
    out.loc[twice, "reason"] = "the same alert stands in " + out.loc[twice, "candidate_id"].map(first) + " already."
    out.loc[twice, "scorable"] = False
    return out


def read_evidence(cfg: AlertsConfig, rules: Sequence[Rule]) -> pd.DataFrame:
    """What `rules` read of the evidence table, with the columns that say which alert a row speaks of; as text, empty without a table.

    Raises `InputError` for a table that cannot be read and `ConfigError` for a rule whose column neither it nor the packets have.
    """
    of_packets = [column.name for column in ALERTS.columns if column.name.startswith(PACKET)]
    if cfg.evidence is None:
        check_columns(rules, of_packets, where="the packets (survey.alerts.evidence is null)")
        return pd.DataFrame({"candidate_id": pd.Series(dtype=object)})
    path = Path(cfg.evidence)
    names = _column_names(path)
    check_columns(rules, [*names, *of_packets], where=f"{path} and the packets")
    if not {"candidate_id", "candid"} & set(names):
        raise InputError(f"{path} has neither candid nor candidate_id, so that nothing says which alert a row is of; add one.")
    wanted = [name for name in names if name in _KEYS or any(name in rule.columns for rule in rules)]
    if path.suffix == ".parquet":
        return pd.read_parquet(path, columns=wanted)
    return pd.read_csv(path, usecols=wanted, dtype=str, keep_default_na=False)


def _column_names(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"survey.alerts.evidence is {path}, which does not exist; name a table, or null for no evidence.")
    try:
        if path.suffix == ".parquet":
            return [str(name) for name in pq.read_schema(path).names]
        return [str(name) for name in pd.read_csv(path, nrows=0).columns]
    except (OSError, ValueError, UnicodeDecodeError) as error:  # pandas and Arrow raise kinds of ValueError for a broken table
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{path} is no readable table ({first}); give CSV or Parquet with a header.") from error


def label(table: pd.DataFrame, evidence: pd.DataFrame, real: Sequence[Rule], bogus: Sequence[Rule], confidence: float) -> pd.DataFrame:
    """LABELS of the usable alerts, from the rules over the evidence and the packets' own numbers."""
    used = table[table["scorable"]]
    names = _evidence_names(evidence, used)
    known = names.isin(set(used["candidate_id"]))
    if len(evidence):
        if not known.any():
            raise InputError(
                f"none of the {len(evidence)} rows of the evidence speaks of a usable alert: it has {names.iloc[0]!r}, the alerts "
                f"{used['candidate_id'].iloc[0]!r}; give the survey and candid of these alerts."
            )
        log.info("alerts: %d of %d rows of the evidence speak of a usable alert", int(known.sum()), len(evidence))
    own = [column for column in table.columns if any(column in rule.columns for rule in (*real, *bogus)) and column.startswith(PACKET)]
    said = evidence[known.to_numpy()].drop(columns=["candidate_id", *own], errors="ignore").assign(candidate_id=names[known])
    rows = used[["candidate_id", *own]].merge(said, on="candidate_id", how="left")
    found = evidence_labels(rows["candidate_id"], rows, real, bogus, confidence=confidence).drop_duplicates(["candidate_id", "label"])
    log.info(
        "alerts: evidence calls %d real and %d bogus, both at once %d",
        int((found["label"] == 1).sum()), int((found["label"] == 0).sum()), len(in_conflict(found)),
    )  # fmt: skip
    return found.reset_index(drop=True)


def _evidence_names(evidence: pd.DataFrame, used: pd.DataFrame) -> pd.Series:
    """The candidate_id of each row of the evidence."""
    if "candidate_id" in evidence:
        return evidence["candidate_id"].astype(str)
    if "survey" in evidence:
        return evidence["survey"].astype(str).str.strip().str.lower() + ":" + evidence["candid"].astype(str).str.strip()
    surveys = sorted(used["survey"].unique())
    if len(surveys) > 1:
        raise InputError(f"the evidence has no column survey, but the alerts are of {', '.join(surveys)}; add it.")
    return surveys[0] + ":" + evidence["candid"].astype(str).str.strip()


def _problems(table: pd.DataFrame) -> tuple[Problem, ...]:
    aside = table[~table["scorable"]]
    named = [Problem(source, reason) for source, reason in zip(aside["source"][:_NAMED], aside["reason"][:_NAMED], strict=True)]
    if len(aside) > _NAMED:
        named.append(Problem(str(ALERTS_PATH), f"{len(aside) - _NAMED} further alerts were set aside; the table has the reason of each."))
    return tuple(named)
