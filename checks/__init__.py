"""Are the committed results what the committed code gives? Asked at three prices: check, spot_check and verify."""
