"""What a bundle costs on a machine: measured, kept, merged and compared."""
