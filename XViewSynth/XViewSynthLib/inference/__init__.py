"""From a scan and a model to an enhanced scan."""
