"""Candidates -> a versioned data set: labels, shards, normalisations, splits and the audit that refuses a leak."""
