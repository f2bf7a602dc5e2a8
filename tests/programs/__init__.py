"""Programs that the tests start. Each ends by itself within two minutes, whatever happens."""
