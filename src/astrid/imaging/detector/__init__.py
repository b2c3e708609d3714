"""What the detector and the archive did to the photons: a readout in electrons, its sky, its bad pixels, its noise."""
