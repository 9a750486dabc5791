"""Training on Accelerate: trainer, optimiser groups, checkpoints."""
