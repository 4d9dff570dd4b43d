"""Small networks of every form that a user may hand over, with seeded weights."""

from networks import files, forms, images, sequences
from networks.case import Case

CASES: dict[str, Case] = {case.name: case for case in (*images.CASES, *sequences.CASES, *forms.CASES, *files.CASES)}

__all__ = ["CASES", "Case"]
