"""The plan: its types, its text, proofs about it, and where its segments lead."""
