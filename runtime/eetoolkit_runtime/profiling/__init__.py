"""What a bundle costs on a machine: measured, kept and compared."""
