// One cluster of CTAs on one CPU thread: every CUDA thread is a fiber, collectives are meetings, and what is
// asynchronous is done at a moment that a seeded schedule draws.
#pragma once

#include <cstdio>
#include <functional>
#include <map>

#include "fiber.h"
#include "memory.h"

namespace emulated {

struct Thread {
  Thread(int index, int cta, int agent, void (*entry)(), Known nothing)
      : index(index), cta(cta), agent(agent), fiber(entry), known(nothing), published(nothing), copies(1) {}

  int index, cta, agent;  // in its CTA; the CTA's rank; in the cluster
  Fiber fiber;
  bool done = false, ready = true;
  const char* waits_for = "";
  Known known,
      published;     // what ordinary accesses rely on; what of it a proxy fence has shown to the asynchronous proxy
  uint32_t now = 1;  // its own clock
  void* argument = nullptr;              // what it brings to a meeting
  std::vector<std::vector<int>> copies;  // cp.async: the flights of each group, the open one last
};

struct Meeting {  // of a warp, a named barrier or a cluster
  const char* what = nullptr;
  int expected = 0;
  std::vector<Thread*> members;
};

struct Counters {  // what a kernel did, for models of its speed
  int64_t bytes_copied = 0, multiplications = 0, exponentials = 0, shuffles = 0, matrices = 0, conflicts = 0;
};
inline Counters counters;

class Machine;
inline Machine* machine = nullptr;
inline Thread* self = nullptr;

class Machine {
 public:
  static constexpr int kBarriers = 64;  // mbarriers of a CTA

  const int ctas, threads, first_block, blocks;
  std::mt19937_64 random;
  SharedMemory memory;
  std::vector<Thread> all;
  std::map<std::pair<int, int>, Meeting> named;  // CTA and number of a barrier
  std::vector<Meeting> warps;
  // Where instructions of one architecture keep their state; done by `progress`, which says whether there was anything
  // to do.
  std::shared_ptr<void> extension;
  std::function<bool()> progress = [] { return false; };
  std::function<std::string()> unfinished = [] { return std::string(); };

  Machine(int ctas, int threads, size_t shared_bytes, int first_block, int blocks, uint64_t seed,
          const std::function<void()>& kernel)
      : ctas(ctas),
        threads(threads),
        first_block(first_block),
        blocks(blocks),
        random(seed * 2654435761u + static_cast<uint64_t>(first_block) * 40503u + 1),
        memory(ctas, ctas * threads / 32, shared_bytes, random),
        warps(ctas * threads / 32),
        kernel_(kernel) {
    const Known nothing = std::make_shared<Clock>(agents());
    all.reserve(ctas * threads);
    for (int i = 0; i < ctas * threads; ++i) all.emplace_back(i % threads, i / threads, i, &enter, nothing);
    for (auto& warp : warps) warp.expected = 32;
  }

  int agents() const { return ctas * threads + kBarriers * ctas + ctas * threads / 32; }
  int barrier_agent(int index) const { return ctas * threads + index; }
  int tensor_agent(int warp) const { return ctas * threads + kBarriers * ctas + warp; }
  bool ended(int cta) const {
    for (int i = cta * threads; i < (cta + 1) * threads; ++i)
      if (!all[i].done) return false;
    return true;
  }

  // Runs to the end or to the first error, and returns that. The seed decides who runs next, evenly or by priorities
  // that starve some for long, and how eagerly asynchronous work is done.
  std::string run() {
    machine = this;
    const bool by_priority = random() % 2;
    const int eagerness =
        static_cast<int>(random() % 3);  // 0: only when nothing else can run, 1: now and then, 2: at once
    std::vector<uint32_t> priority(warps.size());
    std::vector<Thread*> ready;
    size_t live = all.size();
    for (int round = 0; live && memory.error.empty(); ++round) {
      if (round % 500 == 0)
        for (auto& each : priority) each = static_cast<uint32_t>(random());
      choose(ready, by_priority, priority);
      if ((ready.empty() || eagerness == 2 || (eagerness == 1 && random() % 8 == 0)) && progress()) continue;
      if (ready.empty()) memory.fail("deadlock: " + where());
      std::shuffle(ready.begin(), ready.end(), random);
      for (Thread* each : ready) {
        if (!each->ready || each->done || !memory.error.empty()) continue;
        self = each;
        each->fiber.enter();
        self = nullptr;
        live -= each->done;
        if (eagerness == 1 && random() % 64 == 0) progress();
      }
    }
    if (memory.error.empty()) memory.fail(unfinished());
    machine = nullptr;
    return memory.error;
  }

  // What failed, and in which thread; that thread goes no further.
  [[noreturn]] void fail(const std::string& what) {
    memory.fail(what);
    stop();
  }
  void stop_on_error() {
    if (!memory.error.empty()) stop();
  }

  void block(const char* waits_for) {
    self->ready = false, self->waits_for = waits_for;
    self->fiber.leave();
  }

  // Everyone brings an argument; the last to come works for all of them, in the order of their numbers, and all go on.
  template <class Argument, class Work>
  void meet(Meeting& meeting, const char* what, Argument& argument, Work&& work) {
    if (!meeting.members.empty() && std::strcmp(meeting.what, what))
      fail(std::string("diverged: ") + what + " meets " + meeting.what);
    meeting.what = what;
    self->argument = &argument;
    meeting.members.push_back(self);
    if (static_cast<int>(meeting.members.size()) < meeting.expected) return block(what);
    std::vector<Thread*> members;
    members.swap(meeting.members);
    std::sort(members.begin(), members.end(), [](Thread* a, Thread* b) { return a->agent < b->agent; });
    work(members);
    for (Thread* each : members) each->ready = true;
    stop_on_error();
  }
  template <class Argument, class Work>
  void meet_warp(const char* what, Argument& argument, Work&& work) {
    meet(warps[self->agent / 32], what, argument, work);
  }

  // A barrier: each member learns what all know, and what all did.
  void synchronize(const std::vector<Thread*>& members) {
    auto known = std::make_shared<Clock>(*members[0]->known);
    auto published = std::make_shared<Clock>(*members[0]->published);
    auto merge = [](Clock& into, const Known& from, const Known& seen) {
      if (from == seen) return;
      for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], (*from)[i]);
    };
    for (size_t i = 1; i < members.size(); ++i) {
      merge(*known, members[i]->known, members[i - 1]->known);
      merge(*published, members[i]->published, members[i - 1]->published);
    }
    for (Thread* each : members) (*known)[each->agent] = each->now++;
    const Known shared = known, visible = published;
    for (Thread* each : members) each->known = shared, each->published = visible;
  }
  // All that `thread` did and knows until now; what it does later is not covered.
  Known release(Thread& thread) {
    auto known = std::make_shared<Clock>(*thread.known);
    (*known)[thread.agent] = thread.now++;
    return known;
  }

  uint32_t full(uint32_t address, const Thread& thread) const {
    return address >> 24 ? address - (1u << 24) : address + (static_cast<uint32_t>(thread.cta) << 24);
  }
  static Access ordinary(const Thread& thread, const char* what) {
    return {thread.agent, thread.agent / 32, thread.now, *thread.known, *thread.known, what};
  }

  // Copies that may land at any moment, or when their own thread waits for them.
  int take_off(std::function<void()> land) {
    flights_[next_flight_] = std::move(land);
    return next_flight_++;
  }
  void land(int flight) {
    const auto found = flights_.find(flight);
    if (found == flights_.end()) return;
    const auto work = std::move(found->second);
    flights_.erase(found);
    work();
  }

  // Eight rows of 16 bytes read or written at once conflict unless they lie in eight different groups of banks.
  void count_banks(const uint32_t (&rows)[32], int matrices) {
    for (int matrix = 0; matrix < matrices; ++matrix) {
      int groups = 0;
      for (int row = 0; row < 8; ++row) groups |= 1 << (rows[matrix * 8 + row] / 16 % 8);
      ++counters.matrices, counters.conflicts += groups != 255;
    }
  }

 private:
  static void enter() {
    machine->kernel_();
    self->done = true;
    self->fiber.leave();
  }
  [[noreturn]] void stop() {
    if (self) {
      if (memory.error.find(" [") == std::string::npos)
        memory.error +=
            " [block " + std::to_string(first_block + self->cta) + ", thread " + std::to_string(self->index) + "]";
      self->fiber.leave();
    }
    std::abort();
  }
  void choose(std::vector<Thread*>& ready, bool by_priority, const std::vector<uint32_t>& priority) {
    ready.clear();
    uint32_t best = 0;
    for (auto& each : all) {
      if (!each.ready || each.done) continue;
      const uint32_t own = by_priority ? priority[each.agent / 32] : 0;
      if (own > best) ready.clear(), best = own;
      if (own == best) ready.push_back(&each);
    }
  }
  std::string where() const {
    std::map<std::string, int> counts;
    for (const auto& each : all)
      if (!each.done) ++counts["warp " + std::to_string(each.agent / 32) + " in " + each.waits_for];
    std::string text;
    for (const auto& [name, count] : counts) text += std::to_string(count) + " threads of " + name + "; ";
    return text;
  }

  std::function<void()> kernel_;
  std::map<int, std::function<void()>> flights_;
  int next_flight_ = 1;
};

// Runs the clusters of a grid one after the other; returns the first error, or an empty string.
inline std::string launch(int blocks, int threads, int cluster, size_t shared_bytes, uint64_t seed,
                          const std::function<void()>& kernel) {
  for (int first = 0; first < blocks; first += cluster) {
    const std::string error = Machine(cluster, threads, shared_bytes, first, blocks, seed, kernel).run();
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace emulated
