"""Methods that segment from whichever modalities there are."""
