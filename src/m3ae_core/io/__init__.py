"""Images and cases: in files, in folders and in space."""
