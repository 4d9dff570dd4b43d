#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "error.h"
#include "sha256.h"

namespace eetoolkit {
namespace {

constexpr const char* kMissing = " is missing or not a regular file; copy or export the bundle again";
constexpr size_t kChunkBytes = size_t{1} << 20;

// A file that is open for reading.
class Handle {
 public:
  explicit Handle(const std::string& path) : path_(path), number_(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    if (number_ < 0) throw FileError{path, errno};
    struct stat status {};
    if (fstat(number_, &status) != 0 || !S_ISREG(status.st_mode)) {
      close(number_);
      throw integrity_error(shown(path), " is no regular file");
    }
  }
  ~Handle() { close(number_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  size_t read_into(char* target, size_t most) {
    while (true) {
      const ssize_t count = ::read(number_, target, most);
      if (count >= 0) return static_cast<size_t>(count);
      if (errno != EINTR) throw FileError{path_, errno};
    }
  }

 private:
  const std::string& path_;
  int number_;
};

std::string working_directory() {
  std::error_code error;
  std::string folder = std::filesystem::current_path(error).string();
  return error ? std::string() : folder;
}

}  // namespace

std::string absolute_path(std::string_view path) {
  if (path.empty() || path.find('\0') != std::string_view::npos) throw bundle_error("got ", repr(path), ", expected a path");
  std::string whole(path);
  if (path[0] != '/') {
    const std::string folder = working_directory();
    if (folder.empty()) throw bundle_error(path, ": the working directory is gone; name an absolute path");
    whole = joined_path(folder, path);
  }
  std::string normal = std::filesystem::path(whole).lexically_normal().string();
  while (normal.size() > 1 && normal.back() == '/') normal.pop_back();
  return normal;
}

std::string shown(const std::string& path) {
  const std::string folder = working_directory();
  if (path == folder) return ".";
  const std::string below = folder == "/" ? folder : folder + "/";
  return !folder.empty() && path.compare(0, below.size(), below) == 0 ? path.substr(below.size()) : path;
}

std::string joined_path(const std::string& folder, std::string_view name) {
  return folder.empty() || folder.back() == '/' ? join(folder, name) : join(folder, '/', name);
}

bool exists(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0;
}

uint64_t size_of(const std::string& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) throw_unreadable({path, errno});
  if (!S_ISREG(status.st_mode)) throw integrity_error(shown(path), kMissing);
  return static_cast<uint64_t>(status.st_size);
}

std::string read_regular(const std::string& path, uint64_t limit_bytes) {
  Handle file(path);
  std::string data;
  while (data.size() <= limit_bytes) {
    const size_t before = data.size();
    const auto wanted = static_cast<size_t>(std::min<uint64_t>(kChunkBytes, limit_bytes + 1 - before));
    data.resize(before + wanted);
    const size_t count = file.read_into(&data[before], wanted);
    data.resize(before + count);
    if (count == 0) return data;
  }
  throw integrity_error(shown(path), " is over ", limit_bytes >> 20, " MiB, more than such a file has");
}

std::string digest_of(const std::string& path) {
  Handle file(path);
  Sha256 sha;
  std::vector<char> chunk(kChunkBytes);
  while (const size_t count = file.read_into(chunk.data(), chunk.size())) sha.update(chunk.data(), count);
  return sha.digest();
}

void throw_unreadable(const FileError& error) {
  if (error.number == ENOENT) throw integrity_error(shown(error.path), kMissing);
  throw integrity_error("cannot read ", shown(error.path), ": ", std::strerror(error.number));
}

}  // namespace eetoolkit
