"""Which stretches are worth fusing on this machine: measured, remembered, decided."""
