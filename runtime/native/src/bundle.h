// A bundle's folder: its plan, decoded and proved, and whether its files are the ones that the plan names.
#pragma once

#include <string>

#include "plan.h"

namespace eetoolkit {

struct Bundle {
  std::string folder;
  std::string text;  // of manifest.json
  Manifest plan;

  // The bytes of a segment's graph, which are those that the manifest says. Throws IntegrityError.
  [[nodiscard]] std::string graph(const Segment& segment) const;
  // Compares the hash of every file. Throws IntegrityError.
  void check_hashes() const;
};

// Opens a folder; quick: every file's size and every graph's hash. Throws BundleError.
Bundle open_bundle(std::string_view folder, bool full);

}  // namespace eetoolkit
