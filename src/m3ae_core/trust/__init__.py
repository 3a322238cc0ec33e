"""How far one result can be trusted: where its tissue may be wrong, how good it should be, how large the tumour is."""
