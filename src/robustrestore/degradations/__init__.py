"""The shelf of degradations."""

from .rain import Rain as Rain
