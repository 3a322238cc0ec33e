"""M3AE: brain-tumour segmentation from any subset of MRI sequences (Liu et al., AAAI 2023). Research use only."""

__version__ = "0.1.0"
