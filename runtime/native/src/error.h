// Errors inside the runner: a class of the Python runtime and one line of text.
#pragma once

#include <stdexcept>
#include <string>

#include "eetoolkit.h"
#include "text.h"

namespace eetoolkit {

class Error : public std::runtime_error {
 public:
  Error(ee_code code, std::string_view text) : std::runtime_error(flat(text)), code_(code) {}

  [[nodiscard]] ee_code code() const noexcept { return code_; }

 private:
  ee_code code_;
};

template <class... Parts>
[[nodiscard]] Error bundle_error(const Parts&... parts) {
  return {EE_BUNDLE_ERROR, join(parts...)};
}

template <class... Parts>
[[nodiscard]] Error manifest_error(const Parts&... parts) {
  return {EE_MANIFEST_ERROR, join(parts...)};
}

template <class... Parts>
[[nodiscard]] Error integrity_error(const Parts&... parts) {
  return {EE_INTEGRITY_ERROR, join(parts...)};
}

template <class... Parts>
[[nodiscard]] Error run_error(const Parts&... parts) {
  return {EE_RUN_ERROR, join(parts...)};
}

template <class... Parts>
[[nodiscard]] Error input_error(const Parts&... parts) {
  return {EE_INPUT_ERROR, join(parts...)};
}

}  // namespace eetoolkit
