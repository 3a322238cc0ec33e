"""M3AE (Liu et al., AAAI 2023): the multimodal masked autoencoder with a substitute image."""
