"""Other libraries' interfaces on holdfast's engine, so that a service migrates by one import."""
