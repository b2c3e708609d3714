"""Copies of triplets are found by what they show: exactly under turns, shifts and swaps, nearly under small changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from astrid.core.errors import DataSetError
from astrid.datasets.content import content_keys, with_keys, words_of
from astrid.datasets.near import CORRELATION, likeness, near_copies, near_keys

COUNT = 12


def triplets(seed: int = 0, count: int = COUNT) -> np.ndarray:
    """Stamps of their own fields: a few stars, a host, a source in the middle, noise, a masked strip here and there."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((63, 63))
    out = np.empty((count, 3, 63, 63), np.float32)
    for triplet in out:
        sky = np.zeros((63, 63))
        for y, x, flux in zip(rng.uniform(0, 63, 6), rng.uniform(0, 63, 6), 10 ** rng.uniform(1, 3, 6), strict=True):
            sky += flux * np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / 1.5**2)
        source = 10 ** rng.uniform(0.5, 2) * np.exp(-0.5 * ((rows - 31) ** 2 + (columns - 31) ** 2) / 1.5**2)
        science, reference = sky + source + rng.normal(0, 5, sky.shape), sky + rng.normal(0, 2, sky.shape)
        triplet[:] = science + 100, reference + 40, science - reference
        if rng.random() < 0.3:
            triplet[:, :, : rng.integers(1, 12)] = np.nan
    return out


def shifted(stamps: np.ndarray, dy: int, dx: int, fill: float) -> np.ndarray:
    out = np.full_like(stamps, fill)
    there = (slice(max(dy, 0), 63 + min(dy, 0)), slice(max(dx, 0), 63 + min(dx, 0)))
    here = (slice(max(-dy, 0), 63 + min(-dy, 0)), slice(max(-dx, 0), 63 + min(-dx, 0)))
    out[..., there[0], there[1]] = stamps[..., here[0], here[1]]
    return out


def share(first: list[str], second: list[str]) -> list[bool]:
    return [bool(set(a.split()) & set(b.split())) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("mirror", [1, -1])
def test_the_eight_turns_have_equal_keys(quarter: int, mirror: int) -> None:
    stamps = triplets()
    turned = np.rot90(stamps, quarter, axes=(2, 3))[..., ::mirror]
    assert content_keys(turned) == content_keys(stamps)
    assert near_keys(turned) == near_keys(stamps)


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (-2, 2), (4, 4), (0, -8)])
@pytest.mark.parametrize("fill", [np.nan, 0.0])
def test_a_shifted_copy_shares_a_word_of_its_content(dy: int, dx: int, fill: float) -> None:
    stamps = triplets(count=60)
    copies = np.rot90(shifted(stamps, dy, dx, fill), 1, axes=(2, 3))
    assert all(share(content_keys(stamps), content_keys(copies)))


def test_swapped_epochs_and_either_sign_are_the_same_content() -> None:
    stamps = triplets()
    faded = np.stack([stamps[:, 1], stamps[:, 0], -stamps[:, 2]], axis=1)
    assert content_keys(faded) == content_keys(stamps) == content_keys(faded[:, [1, 0, 2]])
    assert near_keys(stamps[:, [1, 0, 2]]) == near_keys(stamps)


def test_other_triplets_share_nothing() -> None:
    one, other = triplets(1, 40), triplets(2, 40)
    words = words_of(pd.Series(content_keys(np.concatenate([one, other]))))
    assert words.nunique() == len(words) == 80 * 6
    noise = one.copy()
    noise[:, 2] = np.nextafter(noise[:, 2], np.inf)
    assert not any(share(content_keys(one), content_keys(noise)))


def test_whole_numbers_do_not_meet_by_chance() -> None:
    """Raw counts: a single pixel has few values, a place of nine pixels many."""
    counts = np.rint(np.random.default_rng(0).normal(1000, 3, (80, 2, 63, 63))).astype(np.float32)
    stamps = np.concatenate([counts, counts[:, :1] - counts[:, 1:]], axis=1)
    words = words_of(pd.Series(content_keys(stamps)))
    assert words.nunique() == len(words)


def test_flat_and_masked_stamps_have_no_content() -> None:
    stamps = triplets(count=3)
    stamps[0] = 7.0
    stamps[1, 2] = np.nan
    keys = content_keys(stamps)
    assert [key == "" for key in keys] == [True, True, False]
    assert list(words_of(pd.Series(keys)).index) == [2] * 6
    assert content_keys(stamps[:0]) == near_keys(stamps[:0]) == []


def test_rows_get_every_key() -> None:
    stamps = triplets(count=2)
    rows = with_keys(stamps, pd.DataFrame({"candidate_id": ["a", "b"]}))
    assert list(rows.columns) == ["candidate_id", "stamp_digest", "content_key", "near_key"]
    assert all(key.startswith("c1-") for key in rows["content_key"])
    assert all(key.startswith("n1-") for key in rows["near_key"])


def noisier(stamps: np.ndarray) -> np.ndarray:
    return stamps + np.random.default_rng(5).normal(size=stamps.shape) * np.array([1.5, 0.6, 1.6])[:, None, None]


def moved(stamps: np.ndarray) -> np.ndarray:
    holes = np.isnan(stamps)
    copies = ndimage.shift(np.where(holes, 0, stamps), (0, 0, 0.25, -0.25), order=3, mode="nearest")
    return np.where(holes, np.nan, copies)


def brighter(stamps: np.ndarray) -> np.ndarray:
    return stamps * np.array([1.2, 0.9, 1.1])[:, None, None] + np.array([30.0, -4.0, 2.0])[:, None, None]


@pytest.mark.parametrize("change", [noisier, moved, brighter])
def test_near_copies_are_found_and_others_are_not(change: Callable[[np.ndarray], np.ndarray]) -> None:
    stamps = triplets(3)
    copies = np.rot90(change(stamps), 1, axes=(2, 3)).astype(np.float32)[:, [1, 0, 2]]
    both = np.concatenate([stamps, copies])
    assert not any(share(content_keys(stamps), content_keys(copies)))
    names = [f"o{number:02d}" for number in range(COUNT)] + [f"c{number:02d}" for number in range(COUNT)]
    table = pd.DataFrame({"candidate_id": names, "near_key": near_keys(both)})
    found = near_copies(table, lambda rows: both[rows], np.arange(2 * COUNT))
    assert list(found["first"]) == names[:COUNT]
    assert list(found["second"]) == names[COUNT:]
    together = near_copies(table, lambda rows: both[rows], np.tile(np.arange(COUNT), 2))
    assert together.empty
    backwards = near_copies(table[::-1].reset_index(drop=True), lambda rows: both[::-1][rows], np.arange(2 * COUNT))
    assert {frozenset(pair) for pair in backwards.to_numpy()} == {frozenset(pair) for pair in found.to_numpy()}


def test_the_pixels_decide() -> None:
    """A copy of the coarse picture alone is none: the same key, other noise."""
    stamps = triplets(4, 2)
    table = pd.DataFrame({"candidate_id": ["a", "b"], "near_key": near_keys(stamps[:1]) * 2})
    assert near_copies(table, lambda rows: stamps[rows], np.arange(2)).empty
    assert likeness(stamps[0], stamps[1]) < 0.3 < CORRELATION
    assert likeness(stamps[0], np.rot90(stamps[0], 3, axes=(1, 2))[:, ::-1]) == pytest.approx(1, abs=1e-4)


def test_point_sources_on_blank_sky_are_not_copies_of_each_other() -> None:
    rows, columns = np.indices((63, 63)) - 31
    source = 500 * np.exp(-0.5 * (rows**2 + columns**2) / 1.5**2)
    epochs = np.random.default_rng(0).normal(size=(30, 2, 63, 63)) + np.stack([source, 0 * source])
    stamps = np.concatenate([epochs, epochs[:, :1] - epochs[:, 1:]], axis=1).astype(np.float32)
    table = pd.DataFrame({"candidate_id": [f"{n:02d}" for n in range(30)], "near_key": near_keys(stamps)})
    assert near_copies(table, lambda rows: stamps[rows], np.arange(30)).empty
    assert max(likeness(stamps[0], other) for other in stamps[1:]) < 0.3


def test_blocks_leave_no_pair_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = triplets(6, 30)
    both = np.concatenate([stamps, noisier(stamps).astype(np.float32)])
    table = pd.DataFrame({"candidate_id": [f"{n:02d}" for n in range(60)], "near_key": near_keys(both)})
    whole = near_copies(table, lambda rows: both[rows], np.arange(60))
    monkeypatch.setattr("astrid.datasets.near._BLOCK", 7)
    monkeypatch.setattr("astrid.datasets.near._PAIRS", 2)
    pd.testing.assert_frame_equal(near_copies(table, lambda rows: both[rows], np.arange(60)), whole)
    assert len(whole) == 30


def test_keys_of_another_recipe_are_left_out_and_broken_ones_refused() -> None:
    stamps = triplets(count=2)
    table = pd.DataFrame({"candidate_id": ["a", "b", "c"], "near_key": ["", "n0-AAAA", near_keys(stamps)[0]]})
    assert near_copies(table, lambda rows: stamps[rows], np.arange(3)).empty
    with pytest.raises(DataSetError, match="'n1-AAAA' is no near_key of 38 numbers"):
        near_copies(table.assign(near_key="n1-AAAA"), lambda rows: stamps[rows], np.arange(3))
