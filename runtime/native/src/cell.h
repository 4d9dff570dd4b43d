// Places for tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "onnxruntime.h"

namespace eetoolkit {

// A place for a tensor: a fixed one keeps its buffer, another one holds what onnxruntime allocated last.
struct Cell {
  bool fixed = true;
  DType dtype = DType::float32;
  Owned<OrtValue> value;
  void* data = nullptr;
  std::vector<int64_t> shape;
  size_t count = 0;  // of elements

  [[nodiscard]] size_t size_bytes() const { return count * bytes_of(dtype); }
  // Points at another tensor.
  void hold(const Onnxruntime& ort, Owned<OrtValue> tensor);
};

// A place for a tensor of this dtype and shape; `what` names it where there is no memory for it. Throws RunError.
Cell allocate(const Onnxruntime& ort, const std::string& what, DType dtype, const std::vector<int64_t>& shape);
// A place for whatever tensor comes.
Cell loose(DType dtype);
// A tensor with the values of a constant.
Cell filled(const Onnxruntime& ort, const std::string& what, const Constant& constant);

}  // namespace eetoolkit
