"""The networks: backbone, heads, substitute image, and the two models made of them."""
