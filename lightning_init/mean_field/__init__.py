"""The parts of `lightning_init.theory`: maps of one layer, their fixed points, criticality, a whole network."""
