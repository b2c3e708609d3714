"""Where exposures come from: catalogues, synthetic surveys, a user's folder, and the rule that pairs them."""
