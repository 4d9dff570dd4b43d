#include "npy.h"

#include <array>
#include <cstdlib>
#include <string>

#include "arguments.h"
#include "text.h"

namespace eetoolkit::programs {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";

// In the order of `DType`.
constexpr std::array<std::string_view, 12> kKinds{"f4", "f8", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"};

// What follows a key of the header, which is a Python dict.
std::string_view value_of(std::string_view header, std::string_view key) {
  const size_t at = header.find(join('\'', key, "':"));
  if (at == std::string_view::npos) throw Failure{join("no .npy file: its header has no ", key)};
  const std::string_view rest = header.substr(at + key.size() + 3);
  return stripped(rest);
}

DType dtype_in(std::string_view header) {
  const std::string_view text = value_of(header, "descr");
  for (size_t place = 0; place < kKinds.size(); ++place) {
    if (text.size() > 4 && text[0] == '\'' && (text[1] == '<' || text[1] == '|') && text.substr(2, 2) == kKinds[place]) {
      return static_cast<DType>(place);
    }
  }
  throw Failure{join("a .npy file of ", first_characters(text, 8), ", expected little-endian numbers or booleans")};
}

std::vector<int64_t> shape_in(std::string_view header) {
  const std::string text(value_of(header, "shape"));
  if (text.empty() || text[0] != '(') throw Failure{"no .npy file: its shape is damaged"};
  std::vector<int64_t> shape;
  for (const char* at = text.c_str() + 1; *at != '\0' && *at != ')';) {
    char* end = nullptr;
    const long long size = std::strtoll(at, &end, 10);
    if (end == at || size < 0) throw Failure{"no .npy file: its shape is damaged"};
    shape.push_back(size);
    at = end;
    while (*at == ',' || *at == ' ') ++at;
  }
  return shape;
}

}  // namespace

Tensor read_npy(std::string_view content) {
  const bool is_npy = content.size() > 12 && content.substr(0, kMagic.size()) == kMagic;
  if (!is_npy || content[6] < 1 || content[6] > 3) throw Failure{"no .npy file"};
  const size_t start = content[6] == 1 ? 10 : 12;
  size_t length = 0;
  for (size_t place = start; place-- > 8;) length = length << 8 | static_cast<unsigned char>(content[place]);
  if (length > content.size() - start) throw Failure{"no .npy file: it ends within its header"};
  const std::string_view header = content.substr(start, length);
  if (value_of(header, "fortran_order").substr(0, 5) != "False") throw Failure{"a .npy file in Fortran's order"};
  Tensor tensor{dtype_in(header), shape_in(header), std::string(content.substr(start + length))};
  double needed = static_cast<double>(bytes_of(tensor.dtype));
  for (const int64_t size : tensor.shape) needed *= static_cast<double>(size);
  if (static_cast<double>(tensor.data.size()) != needed) throw Failure{"a .npy file with fewer or more bytes than its shape needs"};
  return tensor;
}

}  // namespace eetoolkit::programs
