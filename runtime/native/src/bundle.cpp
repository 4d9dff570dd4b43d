#include "bundle.h"

#include <cerrno>
#include <cstring>
#include <set>

#include "error.h"
#include "files.h"
#include "manifest.h"
#include "sha256.h"
#include "validate.h"
#include "wire.h"

namespace eetoolkit {
namespace {

void compare(const std::string& path, const std::string& found, const std::string& expected) {
  if (found == expected) return;
  throw integrity_error(shown(path), ": sha256 ", found.substr(0, 12), "…, expected ", expected.substr(0, 12),
                        "…: the file was changed; export the bundle again");
}

void read_plan(Bundle& bundle) {
  const std::string path = joined_path(bundle.folder, kManifest);
  try {
    bundle.text = read_regular(path, kManifestLimitBytes);
  } catch (const FileError& error) {
    if (error.number == ENOTDIR && exists(bundle.folder)) {
      throw bundle_error(shown(bundle.folder), " is a file, expected a bundle's folder; unpack a .zip of one first");
    }
    if (error.number == ENOENT || error.number == ENOTDIR) {
      throw bundle_error(shown(bundle.folder), exists(bundle.folder) ? " is not a bundle: it has no manifest.json"
                                                                     : " does not exist");
    }
    throw bundle_error("cannot read ", shown(path), ": ", std::strerror(error.number));
  }
  const std::string accept = join("`eetoolkit verify ", shown(bundle.folder), " --accept-edit`");
  const std::string fix =
      join("copy or export the bundle again; if you have edited it, ", accept, " makes it the bundle's own");
  bundle.plan = decode_sealed(bundle.text, shown(path), fix);
  validate(bundle.plan);
}

void check_sizes_and_graphs(const Bundle& bundle) {
  for (const auto& [name, file] : bundle.plan.files) {
    const std::string path = joined_path(bundle.folder, name);
    const uint64_t size = size_of(path);
    if (size != file.size) {
      throw integrity_error(shown(path), ": ", size, " bytes, expected ", file.size,
                            "; copy or export the bundle again");
    }
  }
  std::set<std::pair<std::string, std::vector<std::string>>> seen;
  for (const auto& [name, segment] : bundle.plan.segments) {
    if (segment.model && seen.emplace(*segment.model, segment.weights).second) static_cast<void>(bundle.graph(segment));
  }
}

}  // namespace

std::string Bundle::graph(const Segment& segment) const {
  const std::string path = joined_path(folder, *segment.model);
  const File& file = plan.files.at(*segment.model);
  std::string data;
  std::set<std::string> unlisted;
  try {
    data = read_regular(path, file.size);
    compare(path, sha256(data), file.sha256);
    unlisted = external_files(data);
  } catch (const FileError& error) {
    throw_unreadable(error);
  } catch (const WireError& error) {
    throw integrity_error(shown(path), ": ", error.text);
  }
  for (const std::string& name : segment.weights) unlisted.erase(name);
  if (!unlisted.empty()) {
    throw integrity_error(shown(path), " maps ", repr(std::string_view(*unlisted.begin())),
                          ", which is not among the segment's weights; export the bundle again");
  }
  return data;
}

void Bundle::check_hashes() const {
  for (const auto& [name, file] : plan.files) {
    const std::string path = joined_path(folder, name);
    try {
      compare(path, digest_of(path), file.sha256);
    } catch (const FileError& error) {
      throw_unreadable(error);
    }
  }
}

Bundle open_bundle(std::string_view folder, bool full) {
  Bundle bundle;
  bundle.folder = absolute_path(folder);
  read_plan(bundle);
  check_sizes_and_graphs(bundle);
  if (full) bundle.check_hashes();
  return bundle;
}

}  // namespace eetoolkit
