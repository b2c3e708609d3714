"""Dataclasses of every configuration group, and the way from conf/ to params.yaml."""
