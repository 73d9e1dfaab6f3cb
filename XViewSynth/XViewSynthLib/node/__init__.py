"""A DICOM node: receives thick CT series over the network, enhances them, and sends the results to an archive."""
