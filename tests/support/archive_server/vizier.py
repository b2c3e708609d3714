"""What VizieR answers to astroquery: a VOTable in its dialect for a posted script of one option a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from support.archive_server.faults import Reply
from support.archive_server.server import Request, Route

VOTABLE = "/viz-bin/votable"

# name, datatype, unit, of the Asiago catalogue: names of the event's and the host's columns as VizieR has them
ASIAGO = (
    ("recno", "int", ""), ("n_SN", "char", ""), ("SN", "char", ""), ("u_SN", "char", ""), ("Galaxy", "char", ""), ("RAG", "char", "h:m:s"),
    ("DEG", "char", "d:m:s"), ("z", "float", ""),
    ("Type", "char", ""), ("EpMax", "char", ""), ("u_EpMax", "char", ""), ("Disc", "char", ""),
    ("RAJ2000", "char", "h:m:s"), ("DEJ2000", "char", "d:m:s"), ("_RAJ2000", "double", "deg"), ("_DEJ2000", "double", "deg"),
)  # fmt: skip


def route(tables: Mapping[str, tuple[Sequence[tuple[str, str, str]], Sequence[Sequence[object]]]]) -> Route:
    """Tables by name, each its fields and rows; a catalogue's name gives all of its tables, an unknown one none."""

    def answer(request: Request) -> Reply:
        asked = dict(line.partition("=")[::2] for line in request.body.decode().splitlines())
        wanted = asked.get("-source", "")
        most = asked.get("-out.max", "50")
        found = {name: table for name, table in tables.items() if name == wanted or name.startswith(wanted + "/")}
        body = "".join(_table(name, fields, rows if most == "unlimited" else rows[: int(most)]) for name, (fields, rows) in found.items())
        resource = f'<RESOURCE ID="yCat" name="{escape(wanted)}">{body}</RESOURCE>'
        document = '<?xml version="1.0" encoding="UTF-8"?>\n<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        return Reply(f"{document}<INFO name='-out.max' value='{most}'/>{resource}</VOTABLE>\n".encode(), "text/xml")

    return answer


def _table(name: str, fields: Sequence[tuple[str, str, str]], rows: Sequence[Sequence[object]]) -> str:
    heads = "".join(
        f'<FIELD name="{field}" datatype="{kind}"'
        + (' arraysize="*"' if kind == "char" else "")
        + (f' unit="&quot;{unit}&quot;"' if ":" in unit else f' unit="{unit}"' if unit else "")
        + "/>"
        for field, kind, unit in fields
    )
    lines = "".join("<TR>" + "".join(f"<TD>{escape(str(cell))}</TD>" for cell in row) + "</TR>" for row in rows)
    return f'<TABLE name="{escape(name)}">{heads}<DATA><TABLEDATA>{lines}</TABLEDATA></DATA></TABLE>'
