// Values of a manifest that only people and tools read: their types are checked, and little is kept.
#pragma once

#include "json.h"
#include "plan.h"

namespace eetoolkit {

void read(const Json& json, Criterion& into);
void check_work(const Json& json);
void check_tuning(const Json& json);

}  // namespace eetoolkit
