"""DICOM series, in and out."""
