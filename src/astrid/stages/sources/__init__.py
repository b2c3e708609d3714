"""Where exposures come from: one module a kind of `survey.kind`, each with one function that fills data/raw."""
