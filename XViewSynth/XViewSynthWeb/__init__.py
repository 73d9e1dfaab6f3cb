"""XViewSynthWeb: a scan and its enhancement in linked views in a browser, without Slicer's desktop.

Slicer's own views render the images on the server, which sends them to the page. The volumes stay on the server.
"""
