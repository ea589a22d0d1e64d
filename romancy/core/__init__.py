"""Values: events, commands, records, codec, retry arithmetic, definitions. No I/O."""
