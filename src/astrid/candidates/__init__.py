"""Difference image -> candidates: peaks of S_corr, features, artefact tags, host offset, stamps on one grid."""
