"""Constants of CT numbers. No imports, so that commands that read no scan start quickly."""

#: HU range of the networks and of all figures. If both neighbours lie outside, the spline is the result.
LOWEST_HU, HIGHEST_HU = INTENSITY_RANGE = (-1024.0, 3071.0)
#: Scanners pad with -1500, -2000, -2048 or -3024 HU. Noise in air reaches down to about -1100.
PADDING_BELOW = -1200.0
