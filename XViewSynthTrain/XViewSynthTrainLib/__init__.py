"""Training of the three students by incremental cross-view mutual distillation, without ground truth."""
