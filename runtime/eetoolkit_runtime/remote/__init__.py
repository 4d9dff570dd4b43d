"""A server that goes on where this machine hands over: how it is asked in time, and what of its answers is believed."""
