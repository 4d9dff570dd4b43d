// Which class an exit's outputs say.
#pragma once

#include <string_view>
#include <vector>

#include "eetoolkit.h"
#include "plan.h"

namespace eetoolkit {

constexpr int64_t kNoClass = -1;

// The class that the answer for one row says; kNoClass where it says none, or is not a number.
int64_t predicted(const ee_tensor* outputs, size_t count, const std::optional<ClassScores>& scores);

// An element of a tensor as a number.
double number_at(const ee_tensor& tensor, size_t place);

}  // namespace eetoolkit
