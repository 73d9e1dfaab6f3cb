"""Training of the three views' networks by incremental cross-view mutual distillation, without ground truth."""
