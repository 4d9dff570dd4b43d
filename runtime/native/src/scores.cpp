#include "scores.h"

#include <algorithm>
#include <cmath>

#include "half.h"

namespace eetoolkit {
namespace {

const ee_tensor* find(const ee_tensor* outputs, size_t count, std::string_view name) {
  for (size_t place = 0; place < count; ++place) {
    if (outputs[place].name == name) return &outputs[place];
  }
  return nullptr;
}

size_t elements(const ee_tensor& tensor) { return tensor.size_bytes / ee_dtype_bytes(tensor.dtype); }

bool is_integer(const ee_tensor& tensor) { return tensor.dtype >= EE_INT64 && tensor.dtype <= EE_UINT8; }

template <class T>
double value_at(const ee_tensor& tensor, size_t place) {
  return static_cast<double>(static_cast<const T*>(tensor.data)[place]);
}

// From where on one score means class 1, compared in the score's own precision: p is one half there.
bool means_one(const ee_tensor& score, Scale scale) {
  const double cut = scale == Scale::logits ? 0.0 : scale == Scale::probs ? 0.5 : std::log(0.5);
  const double found = number_at(score, 0);
  return score.dtype == EE_FLOAT64 ? found >= cut : static_cast<float>(found) >= static_cast<float>(cut);
}

// The first of the largest; kNoClass where one is not a number.
int64_t largest(const ee_tensor& scores) {
  int64_t place = 0;
  double best = number_at(scores, 0);
  for (size_t at = 0; at < elements(scores); ++at) {
    const double score = number_at(scores, at);
    if (std::isnan(score)) return kNoClass;
    if (score > best) place = static_cast<int64_t>(at);
    best = std::max(best, score);
  }
  return place;
}

}  // namespace

double number_at(const ee_tensor& tensor, size_t place) {
  switch (static_cast<DType>(tensor.dtype)) {
    case DType::float32: return value_at<float>(tensor, place);
    case DType::float64: return value_at<double>(tensor, place);
    case DType::float16: return float_of_half(static_cast<const uint16_t*>(tensor.data)[place]);
    case DType::int64: return value_at<int64_t>(tensor, place);
    case DType::int32: return value_at<int32_t>(tensor, place);
    case DType::int16: return value_at<int16_t>(tensor, place);
    case DType::int8: return value_at<int8_t>(tensor, place);
    case DType::uint64: return value_at<uint64_t>(tensor, place);
    case DType::uint32: return value_at<uint32_t>(tensor, place);
    case DType::uint16: return value_at<uint16_t>(tensor, place);
    default: return value_at<uint8_t>(tensor, place);
  }
}

int64_t predicted(const ee_tensor* outputs, size_t count, const std::optional<ClassScores>& scores) {
  const ee_tensor* label = find(outputs, count, "label");
  if (label != nullptr && elements(*label) == 1 && is_integer(*label)) {
    const double voted = number_at(*label, 0);
    return voted >= 0 ? static_cast<int64_t>(voted) : kNoClass;
  }
  const ee_tensor* found = scores ? find(outputs, count, scores->output) : nullptr;
  if (found == nullptr || found->rank == 0) return kNoClass;
  if (elements(*found) == 1) {
    const bool is_class = !is_float(static_cast<DType>(found->dtype)) || std::isnan(number_at(*found, 0));
    return is_class ? kNoClass : static_cast<int64_t>(means_one(*found, scores->scale));
  }
  return found->rank == 2 && found->shape[0] == 1 && found->size_bytes > 0 ? largest(*found) : kNoClass;
}

}  // namespace eetoolkit
