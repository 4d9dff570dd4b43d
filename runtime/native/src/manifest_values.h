// The values inside a manifest, read from JSON.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "json.h"
#include "plan.h"

namespace eetoolkit {

// Whether a manifest has a top-level key of this name.
bool is_manifest_key(std::string_view name);
// The manifest in an object, read without its digest and the keys that may be ignored. Throws JsonError.
Manifest read_manifest(const Json& json, const std::vector<std::string>& ignored);

}  // namespace eetoolkit
