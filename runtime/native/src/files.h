// Files that may be anybody's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace eetoolkit {

// The path itself, absolute; symbolic links stay links, `..` is resolved by its text.
std::string absolute_path(std::string_view path);
// A path as a user would name it: from the working directory where it lies below.
std::string shown(const std::string& path);
std::string joined_path(const std::string& folder, std::string_view name);

bool exists(const std::string& path);
// The size of a regular file that is no link; an IntegrityError where there is none.
uint64_t size_of(const std::string& path);
// Never more than so many bytes, and never those of a pipe or a device. Throws FileError where it cannot be read.
std::string read_regular(const std::string& path, uint64_t limit_bytes);
// The SHA-256 of a whole file, read in pieces.
std::string digest_of(const std::string& path);

// What the system says of a file that it does not give.
struct FileError {
  std::string path;
  int number;
};

// What is raised for it: missing, or why it cannot be read.
[[noreturn]] void throw_unreadable(const FileError& error);

}  // namespace eetoolkit
