"""Networks, the random-forest baseline, augmentation, training and the one prediction function. No file is opened here but checkpoints."""
