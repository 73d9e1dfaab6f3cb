"""Constants of CT numbers, without imports, so that commands which read no scan start quickly."""

#: HU range of the networks and of all figures. Where both neighbours lie outside, the spline alone counts.
LOWEST_HU, HIGHEST_HU = INTENSITY_RANGE = (-1024.0, 3071.0)
#: Scanners fill what they did not see with -1500, -2000, -2048 or -3024 HU; noise in air reaches down to about -1100.
PADDING_BELOW = -1200.0
