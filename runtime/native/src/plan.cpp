#include "plan.h"

#include <array>

#include "text.h"

namespace eetoolkit {
namespace {

struct Kind {
  std::string_view name;
  size_t bytes;
};

constexpr std::array<Kind, 12> kKinds{{
    {"float32", 4}, {"float64", 8}, {"float16", 2}, {"int64", 8}, {"int32", 4}, {"int16", 2},
    {"int8", 1}, {"uint64", 8}, {"uint32", 4}, {"uint16", 2}, {"uint8", 1}, {"bool", 1},
}};

}  // namespace

std::string_view name_of(DType dtype) { return kKinds[static_cast<size_t>(dtype)].name; }

size_t bytes_of(DType dtype) { return kKinds[static_cast<size_t>(dtype)].bytes; }

bool is_float(DType dtype) { return dtype <= DType::float16; }

bool is_signed(DType dtype) { return dtype >= DType::int64 && dtype <= DType::int8; }

std::optional<DType> dtype_of(std::string_view name) {
  for (size_t place = 0; place < kKinds.size(); ++place) {
    if (kKinds[place].name == name) return static_cast<DType>(place);
  }
  return std::nullopt;
}

bool Criterion::counted() const {
  return kind == "patience" || kind == "vote" || kind == "all_of" || kind == "any_of" || kind == "at_least";
}

std::vector<std::pair<std::string, std::string>> Criterion::named_constants() const {
  std::vector<std::pair<std::string, std::string>> names = constants;
  for (const Criterion& member : members) {
    for (auto& name : member.named_constants()) names.push_back(std::move(name));
  }
  return names;
}

std::string spell(const Threshold& threshold) {
  if (const double* number = std::get_if<double>(&threshold)) return repr(*number);
  return std::holds_alternative<Never>(threshold) ? "'never'" : "'always'";
}

Ordered<const Exit*> Manifest::exits() const {
  Ordered<const Exit*> found;
  for (const auto& [name, segment] : segments) {
    if (segment.exit && !found.has(segment.exit->name)) found.set(segment.exit->name, &*segment.exit);
  }
  return found;
}

std::string spell(DType dtype, const Shape& shape) {
  std::vector<std::string> dims;
  for (const Dim& dim : shape) {
    const std::string* symbol = symbol_in(dim);
    dims.push_back(is_any(dim) ? "?" : symbol != nullptr ? *symbol : std::to_string(*size_in(dim)));
  }
  return join(name_of(dtype), '[', listed(dims), ']');
}

std::string repr(const Shape& shape) {
  std::vector<std::string> dims;
  for (const Dim& dim : shape) {
    const std::string* symbol = symbol_in(dim);
    dims.push_back(is_any(dim) ? "None" : symbol != nullptr ? repr(std::string_view(*symbol)) : std::to_string(*size_in(dim)));
  }
  return join('[', listed(dims), ']');
}

}  // namespace eetoolkit
