"""The shelf of losses that an attack may climb in place of the task's own."""
