// manifest.json as text: read strictly into the plan's values, its digest checked.
#pragma once

#include <string>
#include <string_view>

#include "json.h"
#include "plan.h"

namespace eetoolkit {

// The manifest in a document, whatever its digest. Throws ManifestError, or JsonError where a type is another.
Manifest decode(const Document& document);

// The manifest in a text, its types checked; `validate` checks the rest. `what` names it in errors, `fix` says what to
// do where it was changed. Throws ManifestError, or IntegrityError where its digest is another.
Manifest decode_sealed(std::string_view text, std::string_view what, std::string_view fix);

}  // namespace eetoolkit
