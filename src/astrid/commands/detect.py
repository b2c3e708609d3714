"""`astrid detect`: one difference product -> a table of candidates, and on request their triplets and a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from astrid.commands.paths import check_outputs
from astrid.config.schema import CandidatesConfig
from astrid.core.records import Difference
from astrid.core.runtime import atomic_path
from astrid.io.tables import CANDIDATES, write_table

_SHOWN = 10  # rows of the printed table
_SCORE_RANGE = 8.0  # sigma, of the picture's grey scale
_INCHES, _DPI = 9.0, 120


def detect(product: Path, output: Path, triplets: Path | None, cfg: CandidatesConfig, picture: Path | None) -> None:
    """Search `product`, write the CANDIDATES table to `output` and print the strongest.

    `triplets`: folder of a triplet store for the scorable candidates; `picture`: PNG of the candidates over the score.
    Raises `InputError` when the product is missing or broken.
    """
    from astrid.candidates.extract import find_candidates
    from astrid.io.fits import read_difference
    from astrid.io.shards import check_folder

    check_outputs([product], [output, picture])
    if triplets is not None:
        check_folder(triplets)
    difference = read_difference(product)
    frame = find_candidates(difference, cfg, pair_id=product.name.removesuffix(".gz").removesuffix(".fits"))
    write_table(frame, output, CANDIDATES)
    print(_summary(frame, output))
    if triplets is not None:
        print(f"{_write_triplets(difference, frame, triplets, cfg.stamps.shard_rows)} triplets -> {triplets}")
    if picture is not None:
        _draw(difference, frame, picture)
        print(f"picture -> {picture}")


def _summary(frame: pd.DataFrame, output: Path) -> str:
    untagged = sum(len(tags) == 0 for tags in frame["tags"])
    dropped = f", {frame.attrs['dropped']} beyond the limit dropped" if frame.attrs.get("dropped") else ""
    lines = [f"{len(frame)} candidates, {untagged} without an artefact tag{dropped} -> {output}"]
    if len(frame):
        lines.append(f"{'x':>8} {'y':>8} {'ra':>11} {'dec':>11} {'S/N':>7} {'flux':>11} tags")
        for row in frame.sort_values("snr", ascending=False, kind="stable").head(_SHOWN).itertuples():
            place = f"{row.x:8.2f} {row.y:8.2f} {row.s_ra:11.6f} {row.s_dec:+11.6f}"
            lines.append(f"{place} {row.sign * row.snr:+7.1f} {row.flux:11.4g} {' '.join(row.tags) or '-'}")
    return "\n".join(lines)


def _write_triplets(difference: Difference, frame: pd.DataFrame, folder: Path, shard_rows: int) -> int:
    from astrid.candidates.stamps import cut_stamps
    from astrid.datasets.content import with_keys
    from astrid.io.shards import ShardWriter

    scorable = frame[frame["scorable"]].reset_index(drop=True)
    rows = scorable.assign(label=-1, label_source="", kind="", event_id=scorable["candidate_id"], cell_id="", true_snr=float("nan"))
    with ShardWriter(folder, shard_rows) as writer:
        stamps = cut_stamps(difference, scorable)
        writer.append(stamps, with_keys(stamps, rows))
    return len(scorable)


def _draw(difference: Difference, frame: pd.DataFrame, path: Path) -> None:
    """The score in grey; green circles untagged, orange tagged, dashed where unscorable; the tags beside them."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(_INCHES, _INCHES), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(difference.score, origin="lower", cmap="gray", vmin=-_SCORE_RANGE, vmax=_SCORE_RANGE, interpolation="nearest")
    figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.02, extend="both", label="S_corr, sigma")
    radius = 0.012 * max(difference.score.shape)
    for row in frame.itertuples():
        colour = "tab:orange" if len(row.tags) else "tab:green"
        axes.add_patch(Circle((row.x, row.y), radius, fill=False, color=colour, linestyle="-" if row.scorable else "--"))
        axes.annotate(" ".join(row.tags), (row.x + radius, row.y), fontsize=7, color=colour)
    untagged = sum(len(tags) == 0 for tags in frame["tags"])
    title = f"{difference.info.exposure_id}\n{len(frame)} candidates, {untagged} of them untagged (green)"
    axes.set(title=title, xlabel="x, px", ylabel="y, px")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png", metadata={"Software": None})
