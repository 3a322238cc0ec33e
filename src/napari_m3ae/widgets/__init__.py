"""The panels: thin views of a session, with no state of their own and no torch."""
