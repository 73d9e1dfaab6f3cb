"""The range of HU that the networks see; what lies outside passes through the spline alone."""

INTENSITY_RANGE = (-1024.0, 3071.0)
