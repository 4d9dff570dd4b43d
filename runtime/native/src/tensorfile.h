// Files of named tensors in the safetensors format: a header in JSON, then raw little-endian bytes in C order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "eetoolkit.h"
#include "plan.h"

namespace eetoolkit {

struct Tensor {
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
  std::string data;

  // As the C interface has it; valid as long as both are.
  [[nodiscard]] ee_tensor view(const char* name) const {
    return {name, data.data(), shape.data(), shape.size(), data.size(), static_cast<ee_dtype>(dtype)};
  }
};

// A text that is no file of tensors.
struct TensorFileError {
  std::string text;
};

struct TensorFile {
  Ordered<Tensor> tensors;
  Ordered<std::string> metadata;

  // Throws TensorFileError: it is damaged, or its tensors leave a gap or lie over each other.
  static TensorFile read(std::string_view content);
};

}  // namespace eetoolkit
