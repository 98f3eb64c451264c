"""The link of a satellite and a terminal: losses, beams, paths, SNR and rate; TR 38.811 and arXiv 2402.04865.

tables       numbers of the standards, by environment, band and elevation
losses rain  what the way takes
arrays       steering vectors, beams, dishes, codebooks
sweep        what every pair of beams of two codebooks passes
link         a scenario's [link] table, path gain, and the nominal link a controller may know
large_scale  line of sight, shadow fading and spreads over a pass
fading       the paths of a pass; those of 3GPP come from clusters and profiles
slot         SNR and rate from paths and beams, never building the matrix
many         many links at once, and how they disturb each other
budget mcs   3GPP's study cases; modulation and coding
doppler      delay and Doppler as a terminal corrects them, and what is left
trace        everything a link did over a pass

Angles, signs and frames are drawn in docs/physics.md, with the function and the test of every equation.
"""

from twin.channel.arrays import beam_factor, beam_factors, beam_gain, direction_cosines, steering_vector
from twin.channel.fading import Fading, draw_fading
from twin.channel.link import Link, NominalLink, path_gain
from twin.channel.slot import slot_link

__all__ = [
    "Fading",
    "Link",
    "NominalLink",
    "beam_factor",
    "beam_factors",
    "beam_gain",
    "direction_cosines",
    "draw_fading",
    "path_gain",
    "slot_link",
    "steering_vector",
]
