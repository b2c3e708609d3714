"""What each verb of the command line does: plain functions with typed arguments, one module a verb."""
