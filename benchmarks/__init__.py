"""How fast the laboratory is, against what one would use instead and against the floor."""
