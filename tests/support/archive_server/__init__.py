"""A server on this machine that speaks an archive's protocol and misbehaves on demand.

`server.ArchiveServer` answers by routes; `faults` says which answers go wrong; `queries` and `missions` fill the routes.
"""
