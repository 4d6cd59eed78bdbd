#include "cuda/ahead.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "cuda/cache.h"
#include "cuda/fuse.h"
#include "cuda/module.h"
#include "cuda/nvrtc.h"
#include "cuda/offline.h"
#include "program/bind.h"

extern "C" char** environ;

namespace onnx_fusion::cuda {
namespace {

constexpr const char* kVariable = "ONNX_FUSION_COMPILERS";  // how many processes at most; 0: none
constexpr const char* kExecutable = "/onnx_fusion_compiler";  // beside this library
constexpr int kMostProcesses = 16;
constexpr size_t kMostSeen = 4096;
constexpr size_t kLargest = size_t{64} << 20;  // of a key or a text
constexpr auto kIdle = std::chrono::seconds(1);

struct Job {
  std::string folder, key, text, nvrtc;
  int arch;

  std::string place() const { return folder + "\n" + key; }
};

bool send_all(int socket, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = send(socket, at, bytes, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    at += put;
    bytes -= static_cast<size_t>(put);
  }
  return true;
}

bool receive_all(int socket, void* data, size_t bytes) {
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = recv(socket, at, bytes, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

std::string own_path() {
  Dl_info info;
  const bool found =
      dladdr(reinterpret_cast<void*>(&own_path), &info) != 0 && info.dli_fname != nullptr;
  return found ? info.dli_fname : "";
}

std::string executable() {
  const std::string library = own_path();
  const size_t slash = library.rfind('/');
  const std::string path = slash == std::string::npos ? "" : library.substr(0, slash) + kExecutable;
  return !path.empty() && access(path.c_str(), X_OK) == 0 ? path : "";
}

// A running compiler for one arch and folder.
class Process {
 public:
  Process() = default;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() { stop(); }

  // False if it could not be started, or died.
  bool compile(const Job& job) {
    const std::vector<std::string> wanted = {job.nvrtc, std::to_string(job.arch), job.folder};
    if (wanted != arguments_) stop();
    if (socket_ < 0 && !start(wanted)) return false;
    const uint64_t sizes[] = {job.key.size(), job.text.size()};
    char answer = 0;
    const bool done = send_all(socket_, sizes, sizeof sizes) &&
                      send_all(socket_, job.key.data(), job.key.size()) &&
                      send_all(socket_, job.text.data(), job.text.size()) &&
                      receive_all(socket_, &answer, 1);
    if (!done) stop();
    return done;
  }

 private:
  bool start(const std::vector<std::string>& arguments) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return false;
    const std::string program = executable(), library = own_path();
    std::vector<char*> words;
    for (const std::string* word :
         {&program, &library, &arguments[0], &arguments[1], &arguments[2]}) {
      words.push_back(const_cast<char*>(word->c_str()));
    }
    words.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    const int code = program.empty() ? ENOENT
                                     : posix_spawn(&process_, program.c_str(), &actions, nullptr,
                                                   words.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (code != 0) {
      close(ends[0]);
      return false;
    }
    socket_ = ends[0];
    arguments_ = arguments;
    return true;
  }

  void stop() {
    if (socket_ < 0) return;
    close(socket_);  // it ends when it sees that
    while (waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
    }
    socket_ = -1;
    arguments_.clear();
  }

  int socket_ = -1;
  pid_t process_ = 0;
  std::vector<std::string> arguments_;
};

int most_processes() {
  cpu_set_t set;
  int processors = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  if (const char* text = std::getenv(kVariable)) processors = std::atoi(text);
  return std::min(processors, kMostProcesses);
}

// The texts that wait and the threads that hand them to processes. Never destroyed.
class Farm {
 public:
  static Farm& get() {
    static auto& farm = *new Farm;
    return farm;
  }

  // Whether this is the first time that anybody asks with this.
  bool meet(const std::string& what) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (seen_.size() >= kMostSeen) seen_.clear();
    return seen_.insert(digest(what)).second;
  }

  void add(Job job) {
    std::lock_guard<std::mutex> lock(mutex_);
    const std::string place = job.place();
    if (working_.count(place) > 0 || find(place) != queue_.end()) return;
    queue_.push_back(std::move(job));
    if (idle_ >= queue_.size() || threads_ >= static_cast<size_t>(std::max(most_processes(), 0))) {
      some_.notify_one();
      return;
    }
    // ONNX Runtime unloads the library with its last session; a thread may still be in it then.
    if (threads_ == 0 && !stay_loaded()) return;
    std::thread([this] { work(); }).detach();
    ++threads_;
  }

  void await(const std::string& place) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto waiting = find(place);
    if (waiting != queue_.end()) queue_.erase(waiting);
    done_.wait(lock, [&] { return working_.count(place) == 0; });
  }

 private:
  std::deque<Job>::iterator find(const std::string& place) {
    return std::find_if(queue_.begin(), queue_.end(),
                        [&](const Job& job) { return job.place() == place; });
  }

  void work() {
    Process process;
    std::unique_lock<std::mutex> lock(mutex_);
    for (bool works = true; works;) {
      ++idle_;
      const bool some = some_.wait_for(lock, kIdle, [&] { return !queue_.empty(); });
      --idle_;
      if (!some) break;
      const Job job = std::move(queue_.front());
      queue_.pop_front();
      const std::string place = job.place();
      working_.insert(place);
      lock.unlock();
      works = process.compile(job);
      lock.lock();
      working_.erase(place);
      done_.notify_all();
    }
    --threads_;
  }

  std::mutex mutex_;
  std::condition_variable some_, done_;
  std::deque<Job> queue_;
  std::set<std::string> working_, seen_;
  size_t threads_ = 0, idle_ = 0;
};

std::string describe(const Program& program, const Settings& settings, const TensorView* shapes) {
  std::string text =
      std::to_string(settings.ordinal) + (settings.tf32 ? " tf32 " : " ") + settings.nvrtc;
  for (size_t i = 0; i < program.inputs; ++i) {
    text += "\n";
    for (size_t d = 0; d < shapes[i].rank; ++d) text += std::to_string(shapes[i].dims[d]) + " ";
  }
  return text;
}

}  // namespace

void compile_ahead(const Program& given, std::string_view text, const Settings& settings,
                   const TensorView* shapes) noexcept {
  try {
    const std::string folder = cache_folder();
    if (folder.empty() || most_processes() < 1 || executable().empty()) return;
    for (size_t i = 0; i < given.inputs; ++i) {
      for (size_t d = 0; d < shapes[i].rank; ++d) {
        if (shapes[i].dims[d] < 0) return;
      }
    }
    Farm& farm = Farm::get();
    if (!farm.meet(folder + describe(given, settings, shapes) + std::string(text))) return;
    if (!host_refusal(given).empty()) return;
    const Program program = fuse(given);
    BoundProgram bound;
    if (!bind_program(program, shapes, &bound).ok()) return;
    const Driver& driver = Driver::get();
    Device device = find_device(driver, settings.ordinal);
    device.tf32 = settings.tf32;
    Plan made;
    if (!plan(bound, device, &made).ok() || made.sources.empty()) return;
    const Compiled compiled = describe_compiled(driver, device.arch, made.sources, settings.nvrtc);
    std::string image;
    if (load(folder, compiled.key, &image)) return;
    farm.add({folder, compiled.key, compiled.text, settings.nvrtc, device.arch});
  } catch (...) {
  }
}

void await_ahead(const std::string& folder, const std::string& key) {
  Farm::get().await(folder + "\n" + key);
}

int serve_compiler(int socket, const std::string& nvrtc, int arch, const std::string& folder) {
  const Compiler& compiler = Compiler::get(nvrtc);
  const int target = compiler.target(arch);
  for (uint64_t sizes[2]; receive_all(socket, sizes, sizeof sizes);) {
    if (sizes[0] > kLargest || sizes[1] > kLargest) return 1;
    std::string key(sizes[0], '\0'), text(sizes[1], '\0');
    if (!receive_all(socket, key.data(), key.size()) ||
        !receive_all(socket, text.data(), text.size())) {
      return 1;
    }
    char answer = 1;
    try {
      if (target / 10 == arch / 10) {
        save(folder, key, compiler.compile(text, target, Form::cubin, ""));
      }
    } catch (const ProgramError&) {
      answer = 0;  // the session meets it again, and tells
    }
    if (!send_all(socket, &answer, 1)) return 1;
  }
  return 0;
}

}  // namespace onnx_fusion::cuda
