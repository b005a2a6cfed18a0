"""Bridges to other projects, one a file; each imports its peer only when it is used."""
