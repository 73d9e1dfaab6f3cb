"""XViewSynthWeb: a scan and its enhancement in linked views, in a browser, for people without the desktop.

The pictures are drawn here, by Slicer's own views, and sent to the page; the volumes stay where they are.
"""
