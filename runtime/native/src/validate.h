// Proofs about a plan, before anything runs.
#pragma once

#include "plan.h"

namespace eetoolkit {

// Proves that a plan can run to an answer whatever its gates say. Throws ManifestError.
void validate(const Manifest& plan);

// The parts of the proof, in the order in which they are asked for: each may rely on those before it.
void check_counts(const Manifest& plan);
void check_names(const Manifest& plan);
void check_definitions(const Manifest& plan);
void check_segments(const Manifest& plan);
void check_files(const Manifest& plan);
void check_flow(const Manifest& plan);
void check_assignment(const Manifest& plan);
void check_types(const Manifest& plan);

}  // namespace eetoolkit
