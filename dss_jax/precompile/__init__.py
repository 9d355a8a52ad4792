"""Plan without hardware: the real programs, compiled for a TPU slice on a CPU machine."""
