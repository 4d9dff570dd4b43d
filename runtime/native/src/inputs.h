// What a caller hands over, checked against the plan's inputs.
#pragma once

#include <string>
#include <vector>

#include "cell.h"
#include "plan.h"

namespace eetoolkit {

// Puts a call's inputs into the plan's order. Throws InputError where their names are others, or one is no tensor.
void put_in_order(const Manifest& plan, const ee_call& call, std::vector<const ee_tensor*>& ordered);
// Proves that inputs in order are one row of dtypes and shapes that the plan takes. Throws InputError.
void check_inputs(const Manifest& plan, const std::vector<const ee_tensor*>& ordered);
// Copies an input, pixels as the plan prepares them, to where the plan wants it.
void take_over(const ee_tensor& tensor, const Preprocess* preprocess, Cell& cell);

}  // namespace eetoolkit
