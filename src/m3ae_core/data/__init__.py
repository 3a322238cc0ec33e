"""Images on disk and in memory: safe NIfTI reading and writing, cases, grids, preprocessing, data sets."""
