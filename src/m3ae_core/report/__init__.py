"""Figures of results (extra ``report``)."""
