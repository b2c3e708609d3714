"""What every room speaks: frozen records, the error tree, DQ bits, provenance, progress and the parallel map."""
