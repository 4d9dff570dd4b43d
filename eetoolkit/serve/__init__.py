"""A page that verifies, profiles and runs bundles in a browser, served to the local network or written as files."""
