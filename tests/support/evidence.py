"""A table of independent evidence about alerts, as `astrid score --evidence` and `astrid transfer` read it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def evidence(groups: Sequence[str]) -> pd.DataFrame:
    """A ZTF alert a row whose evidence puts it into the group of its place: strong, weak, peer_low or other; two alerts an object."""
    rows = [
        {
            "survey": "ZTF",
            "candid": str(k),
            "objectId": f"ZTF{k // 2}",
            "file": f"night/{k}.avro",
            "braai_d6_m7_recomputed": 0.01 if group == "peer_low" else 0.9,
            "solar_system_match_5arcsec": group == "strong",
            "tnsclass": None,
            "simbad_class": "S*" if group == "weak" else None,
        }
        for k, group in enumerate(groups)
    ]
    return pd.DataFrame(rows)
