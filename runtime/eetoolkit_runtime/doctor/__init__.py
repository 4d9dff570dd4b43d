"""What is wrong on a machine, and what would make a bundle faster there."""
