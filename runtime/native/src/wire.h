// An ONNX file read as protobuf's wire format (https://protobuf.dev/programming-guides/encoding).
#pragma once

#include <set>
#include <stdexcept>
#include <string>
#include <string_view>

namespace eetoolkit {

// A text that is no ONNX model.
struct WireError {
  std::string text;
};

// The files whose bytes a model's tensors are, as the model names them. Throws WireError.
std::set<std::string> external_files(std::string_view model);

}  // namespace eetoolkit
