// What reads files that anybody may have made: a typed error, or something that holds. An entry for libFuzzer.
#include <cstdint>
#include <string_view>

#include "arguments.h"
#include "error.h"
#include "flow.h"
#include "manifest.h"
#include "npy.h"
#include "tensorfile.h"
#include "validate.h"
#include "wire.h"

namespace {

using namespace eetoolkit;

void read_manifest_text(std::string_view text) {
  try {
    decode_sealed(text, "m", "f");
  } catch (const Error&) {
  }
  try {
    const Manifest plan = decode(Document(text));
    validate(plan);
    const TensorNumbers numbers(plan);
    for (const SlotSet& live : live_before(plan, numbers)) static_cast<void>(live.slots());
  } catch (const Error&) {
  } catch (const JsonError&) {
  }
}

void read_tensors(std::string_view content) {
  try {
    static_cast<void>(TensorFile::read(content));
  } catch (const TensorFileError&) {
  }
}

void read_array(std::string_view content) {
  try {
    static_cast<void>(programs::read_npy(content));
  } catch (const programs::Failure&) {
  }
}

void read_graph(std::string_view content) {
  try {
    static_cast<void>(external_files(content));
  } catch (const WireError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view content(reinterpret_cast<const char*>(data), size);
  read_manifest_text(content);
  read_tensors(content);
  read_array(content);
  read_graph(content);
  return 0;
}
