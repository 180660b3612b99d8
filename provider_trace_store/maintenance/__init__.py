"""What operators run for long: packing, unpacking, erasing and checking packs."""
