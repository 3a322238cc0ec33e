"""napari-m3ae: brain-tumour segmentation with missing MRI sequences, as a napari plugin."""
