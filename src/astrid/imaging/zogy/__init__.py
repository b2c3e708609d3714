"""The proper subtraction (Zackay, Ofek & Gal-Yam 2016) in tiles, and the score beside sources that moved."""
