"""Raw exposure -> calibrated, aligned and properly subtracted: arrays in, arrays out."""
