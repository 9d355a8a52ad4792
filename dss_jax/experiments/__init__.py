"""The paper's comparisons: grids of runs (`sweep`) and a page about them (`report`)."""
