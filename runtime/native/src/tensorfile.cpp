#include "tensorfile.h"

#include <algorithm>
#include <array>
#include <utility>

#include "json.h"
#include "text.h"

namespace eetoolkit {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr int64_t kLargestSize = (int64_t{1} << 48) - 1;
constexpr size_t kMostDimensions = 32;

// In the order of `DType`.
constexpr std::array<std::string_view, 12> kNames{"F32", "F64", "F16", "I64", "I32", "I16",
                                                  "I8",  "U64", "U32", "U16", "U8",  "BOOL"};

struct Entry {
  std::string name;
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
  std::vector<int64_t> offsets;
};

std::vector<int64_t> read_sizes(const Json& json) {
  std::vector<int64_t> sizes;
  json.elements([&](const Json& size) { sizes.push_back(size.integer(0, kLargestSize)); });
  return sizes;
}

Entry read_entry(std::string_view name, const Json& json) {
  Entry entry;
  entry.name = name;
  int met = 0;
  json.members([&](std::string_view key, const Json& value) {
    const Json named = value.named(key);
    ++met;
    if (key == "dtype") {
      const auto* const found = std::find(kNames.begin(), kNames.end(), named.text());
      if (found == kNames.end()) named.fail(join("Invalid enum value ", repr(std::string_view(named.text()))));
      entry.dtype = static_cast<DType>(found - kNames.begin());
    } else if (key == "shape") {
      entry.shape = read_sizes(named);
      if (entry.shape.size() > kMostDimensions) named.fail(join("Expected `array` of length <= ", kMostDimensions));
    } else if (key == "data_offsets") {
      entry.offsets = read_sizes(named);
      if (entry.offsets.size() != 2) named.fail("Expected `array` of length 2");
    } else {
      json.fail(join("Object contains unknown field `", key, '`'));
    }
  });
  if (met < 3 || entry.offsets.empty()) json.fail("Object missing required field");
  return entry;
}

// Whether the bytes of an entry are as many as its shape needs.
bool has_its_size(const Entry& entry) {
  const int64_t length = entry.offsets[1] - entry.offsets[0];
  double needed = static_cast<double>(bytes_of(entry.dtype));
  for (const int64_t size : entry.shape) needed *= static_cast<double>(size);
  return static_cast<double>(length) == needed;
}

TensorFile read_header(std::string_view text, std::vector<Entry>& entries) {
  TensorFile file;
  const Document document(text);
  document.refuse_twice();
  document.root().members([&](std::string_view name, const Json& value) {
    if (name == "__metadata__") {
      value.members([&](std::string_view key, const Json& each) { file.metadata.set(std::string(key), each.text()); });
    } else {
      entries.push_back(read_entry(name, value));
    }
  });
  return file;
}

}  // namespace

TensorFile TensorFile::read(std::string_view content) {
  uint64_t length = 0;
  for (size_t place = std::min(kLengthBytes, content.size()); place-- > 0;) {
    length = length << 8 | static_cast<unsigned char>(content[place]);
  }
  if (content.size() < kLengthBytes || length > content.size() - kLengthBytes) {
    throw TensorFileError{join(content.size(), " bytes cannot hold a header of ", length)};
  }
  const std::string_view data = content.substr(kLengthBytes + length);
  std::vector<Entry> entries;
  TensorFile file;
  try {
    file = read_header(content.substr(kLengthBytes, length), entries);
  } catch (const JsonError& error) {
    throw TensorFileError{join("its header is damaged: ", error.text)};
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& one, const Entry& other) { return one.offsets < other.offsets; });
  size_t end = 0;
  for (Entry& entry : entries) {
    const std::string name = repr(std::string_view(entry.name));
    const auto start = static_cast<size_t>(entry.offsets[0]);
    const auto stop = static_cast<size_t>(entry.offsets[1]);
    if (start != end || stop < start || stop > data.size() || !has_its_size(entry)) {
      throw TensorFileError{name + " is not where its header says"};
    }
    end = stop;
    const std::string_view bytes = data.substr(start, stop - start);
    const bool is_truth = std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0 || byte == 1; });
    if (entry.dtype == DType::boolean && !is_truth) throw TensorFileError{name + " is BOOL and has other bytes than 0 and 1"};
    file.tensors.set(std::move(entry.name), {entry.dtype, std::move(entry.shape), std::string(bytes)});
  }
  if (end != data.size()) throw TensorFileError{join(data.size() - end, " bytes at its end are no tensor's")};
  return file;
}

}  // namespace eetoolkit
