"""Types of transients: one normal form, how sure it is, whether it is peculiar, and which type is a subtype of which."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from astrid.core.errors import ConfigError

# Normal form -> the types above it. Names follow TNS but for SN Ibc, which the house writes without the slash.
PARENTS: dict[str, tuple[str, ...]] = {
    "SN": (),
    "SN I": ("SN",),
    "SN CC": ("SN",),
    "SN Ia": ("SN I",),
    "SN Ia-91T": ("SN Ia",),
    "SN Ia-91bg": ("SN Ia",),
    "SN Ia-99aa": ("SN Ia",),
    "SN Ia-CSM": ("SN Ia",),
    "SN Ia-SC": ("SN Ia",),
    "SN Iax": ("SN Ia",),
    "SN Ibc": ("SN I", "SN CC"),
    "SN Ib": ("SN Ibc",),
    "SN Ib-Ca-rich": ("SN Ib",),
    "SN Ibn": ("SN Ib",),
    "SN Ic": ("SN Ibc",),
    "SN Ic-BL": ("SN Ic",),
    "SN Ic-Ca-rich": ("SN Ic",),
    "SN Icn": ("SN Ic",),
    "SN II": ("SN CC",),
    "SN IIP": ("SN II",),
    "SN IIL": ("SN II",),
    "SN IIn": ("SN II",),
    "SN IIb": ("SN II",),
    "SLSN": ("SN",),
    "SLSN-I": ("SLSN",),
    "SLSN-II": ("SLSN",),
    "SN impostor": (),
    "AGN": (),
    "CV": (),
    "GRB": (),
    "ILRT": (),
    "LBV": (),
    "LRN": (),
    "TDE": (),
    "asteroid": (),
    "galaxy": (),
    "kilonova": (),
    "nova": (),
    "variable": (),
}

_UNKNOWN = frozenset(("", "-", "unknown", "unk", "candidate", "other", "none", "nan"))
_SPELLINGS = {
    "ia02cx": "SN Iax",
    "iax02cx": "SN Iax",
    "ia02cxlike": "SN Iax",
    "ia03fg": "SN Ia-SC",
    "ia09dc": "SN Ia-SC",
    "iasuperchandra": "SN Ia-SC",
    "ib/c": "SN Ibc",
    "ibcarich": "SN Ib-Ca-rich",
    "carich": "SN Ib-Ca-rich",
    "iccarich": "SN Ic-Ca-rich",
    "ib/iccarich": "SN Ibc",
    "corecollapse": "SN CC",
    "slsnr": "SLSN-I",
    "slsnic": "SLSN-I",
    "slsniin": "SLSN-II",
    "impostor": "SN impostor",
    "imposter": "SN impostor",
    "impostorsn": "SN impostor",
    "qso": "AGN",
    "blazar": "AGN",
    "lgrb": "GRB",
    "sgrb": "GRB",
    "afterglow": "GRB",
    "kn": "kilonova",
    "star": "variable",
    "varstar": "variable",
    "variablestar": "variable",
    "mdwarf": "variable",
}
_PECULIAR = re.compile(r"[-\s]*\bpec(uliar)?\b\.?|pec$", re.IGNORECASE)


def _squash(text: str) -> str:
    return re.sub(r"[\s_()\[\]-]+", "", text).lower()


_KNOWN = {**{_squash(name).removeprefix("sn") or "sn": name for name in PARENTS}, **_SPELLINGS}


@dataclass(frozen=True, slots=True)
class TransientType:
    """`name` in its normal form, empty where unknown; `known` is false where the text was not understood and stays as it is."""

    name: str
    uncertain: bool = False
    peculiar: bool = False
    known: bool = True


def read_type(text: str) -> TransientType:
    """The type that a catalogue's text means.

    `IaPec:`, `SN Ia-pec`, `II P?` and `type Ia` are read; `:` and `?` make it uncertain, `Pec` peculiar; Asiago's `*`, which says
    how the type was found, is left out. Of alternatives
    (`Ib/IIb`) the nearest type above all of them is taken, as uncertain.
    """
    given = " ".join(text.split())
    if given.lower() in _UNKNOWN:
        return TransientType("")
    uncertain = any(mark in given for mark in ":?")
    bare = re.sub(r"[:?*]", "", given).strip()
    peculiar = bool(_PECULIAR.search(bare))
    bare = re.sub(r"^type\s+", "", _PECULIAR.sub("", bare).strip(), flags=re.IGNORECASE)
    name = _lookup(bare) if bare or peculiar else ""
    if name is not None:
        return TransientType(name, uncertain and bool(name), peculiar)
    several = [_lookup(part) for part in re.split(r"\s*(?:/|,|\bor\b)\s*", bare) if part]
    above = _common([one for one in several if one]) if len(several) > 1 and all(several) else ""
    return TransientType(above, True, peculiar) if above else TransientType(given, known=False)


def _lookup(text: str) -> str | None:
    squashed = _squash(text)
    for key in (squashed, squashed.removesuffix("like")):
        if key in _KNOWN:
            return _KNOWN[key]
        if key.removeprefix("sn") in _KNOWN:
            return _KNOWN[key.removeprefix("sn")]
    return "SN" if squashed in ("", "sn") else None


def _lineage(name: str) -> list[str]:
    """The type and all above it, the nearest first."""
    out, level = [], [name]
    while level:
        out += [one for one in level if one not in out]
        level = [above for one in level for above in PARENTS.get(one, ())]
    return out


def _common(names: list[str]) -> str:
    return next((one for one in _lineage(names[0]) if all(one in _lineage(other) for other in names[1:])), "")


def is_one_of(name: str, wanted: Iterable[str]) -> bool:
    """Whether a normal type is one of the wanted ones or a subtype of one."""
    return not set(_lineage(name)).isdisjoint(wanted)


def wanted_types(texts: Iterable[str], where: str) -> tuple[str, ...]:
    """Normal forms of types in a configuration. Raises `ConfigError` naming `where` for a type that is not known."""
    out = []
    for text in texts:
        found = read_type(text)
        if not found.known or not found.name:
            raise ConfigError(f"{where} names the type {text!r}, which is none of {', '.join(PARENTS)}; correct it.")
        out.append(found.name)
    return tuple(out)
