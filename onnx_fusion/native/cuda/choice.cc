#include "cuda/choice.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>

#include "cuda/cache.h"

namespace onnx_fusion::cuda {
namespace {

constexpr int64_t kLeast = int64_t{1} << 20;  // multiplications: below, a launch is what counts
constexpr size_t kMostRemembered = 4096;  // choices in memory

// Its two leading bits.
int64_t roughly(int64_t n) {
  int shift = 0;
  while (n >> shift >= 4) ++shift;
  return n >> shift << shift;
}

std::string write_choice(const Choice& choice) {
  std::string text = "choice 2\n";
  for (size_t i = 0; i < kMostMade; ++i) {
    if (choice.makers[i] == Maker::kernel) continue;
    text += std::to_string(i) + " " + std::to_string(static_cast<int>(choice.makers[i])) + " " +
            std::to_string(choice.algorithms[i]) + "\n";
  }
  return text;
}

bool read_choice(const std::string& text, Choice* choice) {
  std::istringstream lines(text);
  std::string word;
  int version = 0, offer = 0, maker = 0, algorithm = 0;
  if (!(lines >> word >> version) || word != "choice" || version != 2) return false;
  *choice = Choice();
  while (lines >> offer) {
    if (!(lines >> maker >> algorithm) || offer < 0 || offer >= static_cast<int>(kMostMade) ||
        maker < 1 || maker > static_cast<int>(Maker::library_sums) || algorithm < 0 ||
        algorithm >= kMostAlgorithms) {
      return false;
    }
    choice->makers[static_cast<size_t>(offer)] = static_cast<Maker>(maker);
    choice->algorithms[static_cast<size_t>(offer)] = algorithm;
  }
  return lines.eof();
}

struct Memory {
  std::mutex mutex;
  std::map<std::string, std::string> texts;

  static Memory& get() {
    static auto& memory = *new Memory;
    return memory;
  }
};

// Memory first, then the disk.
bool recall(const std::string& key, std::string* text) {
  Memory& memory = Memory::get();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  const auto found = memory.texts.find(key);
  if (found != memory.texts.end()) {
    *text = found->second;
    return true;
  }
  if (!load(cache_folder(), key, text)) return false;
  memory.texts[key] = *text;
  return true;
}

void remember(const std::string& key, const std::string& text) {
  Memory& memory = Memory::get();
  const std::lock_guard<std::mutex> lock(memory.mutex);
  if (memory.texts.size() >= kMostRemembered) memory.texts.clear();
  memory.texts[key] = text;
  save(cache_folder(), key, text);
}

}  // namespace

bool is_worth(const Offer& offer) { return offer.multiplications >= kLeast; }

Libraries find_libraries(const std::array<bool, kLibraries>& allowed,
                         const std::vector<Offer>& offers) {
  Libraries found{};
  for (size_t i = 0; i < kLibraries; ++i) {
    const auto name = static_cast<LibraryName>(i);
    const bool worth = std::any_of(offers.begin(), offers.end(), [&](const Offer& o) {
      return o.library == name && is_worth(o);
    });
    if (!allowed[i] || !worth) continue;
    const Library* library = Library::get(name);
    if (library != nullptr && library->is_trusted()) found[i] = library;
  }
  return found;
}

std::string choice_key(const Driver& driver, const Place& place, const Libraries& libraries,
                       const Plan& own) {
  std::string key = std::string("onnx_fusion ") + ONNX_FUSION_VERSION + " choice\n" + place.name +
                    "\nsm_" + std::to_string(place.device.arch) + "\ndriver " +
                    std::to_string(driver.release);
  for (const Library* library : libraries) {
    if (library != nullptr) key += "\n" + library->version();
  }
  for (const Source& source : own.sources) key += "\n" + source.entry;
  for (const Offer& o : own.offers) {
    key += "\n" + std::to_string(o.stage) + ":";
    for (const int64_t word : o.kind) key += " " + std::to_string(word);
    key += ":";
    for (const int64_t size : o.sizes) key += " " + std::to_string(roughly(size));
  }
  return key;
}

bool recall_choice(const std::string& key, Choice* choice) {
  std::string text;
  return recall(key, &text) && read_choice(text, choice);
}

void remember_choice(const std::string& key, const Choice& choice) {
  remember(key, write_choice(choice));
}

}  // namespace onnx_fusion::cuda
