"""How the meta-gradient is obtained."""
