#include "inputs.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string_view>

#include "half.h"

namespace eetoolkit {
namespace {

std::string spell(const TensorSpec& spec) { return join(spec.name, ": ", spell(spec.dtype, spec.shape)); }

std::string shape_of(const ee_tensor& tensor) {
  std::vector<std::string> dims;
  for (size_t place = 0; place < tensor.rank; ++place) dims.push_back(std::to_string(tensor.shape[place]));
  return join('[', listed(dims), ']');
}

bool is_dtype(ee_dtype dtype) { return dtype >= EE_FLOAT32 && dtype <= EE_BOOL; }

[[noreturn]] void refuse_names(const Manifest& plan, const ee_call& call) {
  std::vector<std::string> got;
  std::vector<std::string> expected;
  for (size_t place = 0; place < call.input_count; ++place) {
    const char* name = call.inputs[place].name;
    got.emplace_back(name == nullptr ? "" : name);
  }
  std::sort(got.begin(), got.end());
  for (const TensorSpec& spec : plan.inputs) expected.push_back(plan.title(spec.name));
  throw input_error("got inputs ", repr(got), ", expected ", repr(expected));
}

// Whether a caller's name is this input's: the network's names go before the plan's.
bool is_called(const Manifest& plan, const TensorSpec& spec, const char* name) {
  if (plan.title(spec.name) == name) return true;
  const auto is_title = [&](const TensorSpec& each) { return plan.title(each.name) == name; };
  return spec.name == name && std::none_of(plan.inputs.begin(), plan.inputs.end(), is_title);
}

// Refuses what is no tensor, whatever the plan says.
void check_tensor(const std::string& name, const ee_tensor& tensor) {
  const std::string what = join("input ", repr(std::string_view(name)), ": ");
  if (!is_dtype(tensor.dtype)) throw input_error(what, "its dtype is ", tensor.dtype, ", expected EE_FLOAT32 to EE_BOOL");
  if (tensor.data == nullptr || (tensor.rank > 0 && tensor.shape == nullptr)) {
    throw input_error(what, "its data or its shape is NULL");
  }
  if (tensor.rank > 32) throw input_error(what, "it has ", tensor.rank, " dimensions, expected at most 32");
  double size_bytes = static_cast<double>(bytes_of(static_cast<DType>(tensor.dtype)));
  for (size_t place = 0; place < tensor.rank; ++place) {
    if (tensor.shape[place] < 0) throw input_error(what, "a dimension of its shape ", shape_of(tensor), " is below 0");
    size_bytes *= static_cast<double>(tensor.shape[place]);
  }
  if (static_cast<double>(tensor.size_bytes) != size_bytes) {
    throw input_error(what, tensor.size_bytes, " bytes, its dtype and shape need ", shortened(size_bytes, "%.0f"));
  }
}

void check_shape(const TensorSpec& spec, const ee_tensor& tensor, std::map<std::string, int64_t>& sizes) {
  const std::string got = join("input ", repr(std::string_view(spec.name)), ": got shape ", shape_of(tensor),
                               ", expected ", spell(spec));
  if (tensor.rank != spec.shape.size()) throw input_error(got);
  bool empty = false;
  for (size_t place = 0; place < tensor.rank; ++place) {
    const int64_t size = tensor.shape[place];
    const std::string* symbol = symbol_in(spec.shape[place]);
    const int64_t* fixed = size_in(spec.shape[place]);
    const int64_t known = fixed != nullptr    ? *fixed
                          : symbol == nullptr ? size
                                              : sizes.try_emplace(*symbol, size).first->second;
    if (size != known) throw input_error(got, symbol == nullptr ? "" : join(" (", *symbol, " is ", known, " elsewhere)"));
    empty |= size == 0;
  }
  if (empty) {
    throw input_error("input ", repr(std::string_view(spec.name)), ": got the empty shape ", shape_of(tensor),
                      ", expected ", spell(spec));
  }
}

void check_limits(const Manifest& plan, const std::map<std::string, int64_t>& sizes) {
  for (const auto& [symbol, limit] : plan.limits) {
    const auto found = sizes.find(symbol);
    if (symbol == kBatch || found == sizes.end()) continue;
    const int64_t size = found->second;
    if (limit.min <= size && (!limit.max || size <= *limit.max)) continue;
    const std::string& name = symbol;
    const auto spec = std::find_if(plan.inputs.begin(), plan.inputs.end(), [&](const TensorSpec& each) {
      return std::any_of(each.shape.begin(), each.shape.end(),
                         [&](const Dim& dim) { return symbol_in(dim) != nullptr && *symbol_in(dim) == name; });
    });
    throw input_error("input ", repr(std::string_view(spec->name)), ": ", symbol, " is ", size, ", expected ",
                      limit.max ? join(limit.min, " to ", *limit.max) : join("at least ", limit.min), ": ",
                      spell(*spec));
  }
}

// `(pixel * scale - mean) / std` in float32, as the format says.
template <class Store>
void normalize(const uint8_t* pixels, const Preprocess& preprocess, const Cell& cell, Store store) {
  const auto scale = static_cast<float>(preprocess.scale);
  const auto channels = static_cast<size_t>(cell.shape[preprocess.channels_first ? 1 : 3]);
  const size_t inner = preprocess.channels_first ? static_cast<size_t>(cell.shape[2] * cell.shape[3]) : 1;
  const auto of = [](const std::vector<double>& values, size_t channel) {
    return static_cast<float>(values[values.size() == 1 ? 0 : channel]);
  };
  for (size_t at = 0; at < cell.count;) {
    const size_t channel = at / inner % channels;
    const float mean = of(preprocess.mean, channel);
    const float std = of(preprocess.std, channel);
    for (size_t left = inner; left > 0; --left, ++at) store(at, (static_cast<float>(pixels[at]) * scale - mean) / std);
  }
}

}  // namespace

void put_in_order(const Manifest& plan, const ee_call& call, std::vector<const ee_tensor*>& ordered) {
  ordered.clear();
  if (call.inputs == nullptr && call.input_count > 0) throw input_error("inputs is NULL");
  if (call.input_count != plan.inputs.size()) refuse_names(plan, call);
  for (size_t place = 0; place < plan.inputs.size(); ++place) {
    const TensorSpec& spec = plan.inputs[place];
    const ee_tensor* found = nullptr;
    for (size_t step = 0; step < call.input_count && found == nullptr; ++step) {
      const ee_tensor& tensor = call.inputs[(place + step) % call.input_count];
      if (tensor.name != nullptr && is_called(plan, spec, tensor.name)) found = &tensor;
    }
    if (found == nullptr) refuse_names(plan, call);
    ordered.push_back(found);
  }
}

void check_inputs(const Manifest& plan, const std::vector<const ee_tensor*>& ordered) {
  std::map<std::string, int64_t> sizes;
  for (size_t place = 0; place < ordered.size(); ++place) {
    const TensorSpec& spec = plan.inputs[place];
    const ee_tensor& tensor = *ordered[place];
    check_tensor(spec.name, tensor);
    check_shape(spec, tensor, sizes);
    const auto dtype = static_cast<DType>(tensor.dtype);
    const bool are_pixels = dtype == DType::uint8 && plan.preprocess.has(spec.name);
    if (dtype != spec.dtype && !are_pixels) {
      throw input_error("input ", repr(std::string_view(spec.name)), ": got dtype ", name_of(dtype), ", expected ",
                        spell(spec), "; convert it");
    }
  }
  check_limits(plan, sizes);
  const auto rows = sizes.find(std::string(kBatch));
  if (rows != sizes.end() && rows->second != 1) throw input_error("got ", rows->second, " rows, a run takes one");
}

void take_over(const ee_tensor& tensor, const Preprocess* preprocess, Cell& cell) {
  const auto dtype = static_cast<DType>(tensor.dtype);
  if (dtype == cell.dtype) {
    std::memcpy(cell.data, tensor.data, cell.size_bytes());
    return;
  }
  const auto* pixels = static_cast<const uint8_t*>(tensor.data);
  if (cell.dtype == DType::float32) {
    normalize(pixels, *preprocess, cell, [values = static_cast<float*>(cell.data)](size_t at, float v) { values[at] = v; });
  } else if (cell.dtype == DType::float64) {
    normalize(pixels, *preprocess, cell, [values = static_cast<double*>(cell.data)](size_t at, float v) { values[at] = v; });
  } else {
    normalize(pixels, *preprocess, cell,
              [values = static_cast<uint16_t*>(cell.data)](size_t at, float v) { values[at] = half_of(v); });
  }
}

}  // namespace eetoolkit
