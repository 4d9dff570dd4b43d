// Feeds the target with damaged files for some seconds, where there is no libFuzzer: `ee-fuzz SECONDS SEED FILE...`.
#include <sanitizer/common_interface_defs.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::string current;  // the input that is read now

void keep_current() {
  std::ofstream("fuzz-input", std::ios::binary) << current;
  std::fprintf(stderr, "the input is in fuzz-input\n");
}

class Damage {
 public:
  Damage(std::vector<std::string> files, unsigned seed) : files_(std::move(files)), random_(seed) {}

  std::string next() {
    std::string text = one_of(files_);
    for (size_t left = 1 + below(4); left > 0; --left) damage(text);
    return text;
  }

 private:
  size_t below(size_t bound) { return bound == 0 ? 0 : random_() % bound; }
  const std::string& one_of(const std::vector<std::string>& texts) { return texts[below(texts.size())]; }

  void damage(std::string& text) {
    static const std::vector<std::string> kPieces{
        "{",   "}",      "[",        "]",       "\"",    ",",     ":",     "null", "true",  "-1",   "0",
        "1e400", "18446744073709551616", "9007199254740993", "\\ud800", "\\u0000", "[[[[[[[[", "\"never\"", "\"always\"",
        "\"kind\":\"gate\"", "\"slot\":\"x\"", std::string("\xff\xff\xff\xff\xff\xff\xff\xff"), std::string(8, '\0'), "\x7f"};
    const size_t at = below(text.size() + 1);
    const size_t length = std::min(1 + below(24), text.size() - at);
    switch (below(7)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1: text.erase(at, length); break;
      case 2: text.insert(at, one_of(kPieces)); break;
      case 3: text.replace(at, length, one_of(kPieces)); break;
      case 4: text.insert(at, text.substr(at, length)); break;
      case 5: text.insert(at, text.substr(below(text.size() + 1), 1 + below(40))); break;
      default: text.resize(at);
    }
  }

  std::vector<std::string> files_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) {
    std::fprintf(stderr, "usage: ee-fuzz SECONDS SEED FILE...\n");
    return 2;
  }
  std::vector<std::string> files;
  for (int place = 3; place < count; ++place) {
    std::ifstream file(arguments[place], std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  __sanitizer_set_death_callback(keep_current);
  Damage damage(files, static_cast<unsigned>(std::atoi(arguments[2])));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(arguments[1]));
  size_t inputs = 0;
  for (; std::chrono::steady_clock::now() < end; ++inputs) {
    current = damage.next();
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(current.data()), current.size());
  }
  std::printf("%zu inputs\n", inputs);
  return 0;
}
