// A team of threads and the work it shares: all that the kernels ask of OpenMP.
//
// ThreadSanitizer does not see how gcc's OpenMP runtime orders its threads and would report races that are none. A
// build under it starts plain threads instead; the sharing of work, where a race would be ours, is the same.
#pragma once

#include <sched.h>

#include <chrono>
#include <cstdint>

#if defined(__SANITIZE_THREAD__)
#include <pthread.h>

#include <thread>
#include <vector>
#else
#include <omp.h>
#endif

namespace gloria::GLORIA_ISA {

// What the threads of a team have in common.
struct Team {
  bool (*interrupted)();
  int64_t taken = 0;    // items handed out, in all shares
  int64_t arrived = 0;  // threads that came to the end of a share, in all shares
  bool stopped = false;
#if defined(__SANITIZE_THREAD__)
  pthread_barrier_t barrier;
  Team(int64_t threads, bool (*interrupted_)()) : interrupted(interrupted_) {
    pthread_barrier_init(&barrier, nullptr, static_cast<unsigned>(threads));
  }
  ~Team() { pthread_barrier_destroy(&barrier); }
  void wait() { pthread_barrier_wait(&barrier); }
#else
  Team(int64_t, bool (*interrupted_)()) : interrupted(interrupted_) {}
  void wait() {
#pragma omp barrier
  }
#endif
};

// One thread of a team. Each must come to every `share`.
struct Member {
  using Clock = std::chrono::steady_clock;

  Team& team;
  int64_t index, size;
  int64_t before = 0;    // items handed out in the shares before this one
  int64_t expected = 0;  // arrivals at the end of this share
  Clock::time_point asked = Clock::now();

  // Whether the team gives up; results are then worthless. To be asked between pieces of work of some milliseconds.
  bool stopped() {
    if (index == 0 && team.interrupted && Clock::now() - asked > std::chrono::milliseconds(50)) {
      asked = Clock::now();
      if (team.interrupted()) __atomic_store_n(&team.stopped, true, __ATOMIC_RELAXED);
    }
    return __atomic_load_n(&team.stopped, __ATOMIC_RELAXED);
  }

  // Returns when `done()` holds or the team has stopped. The caller's thread goes on asking meanwhile.
  template <class Done>
  void wait_until(Done done) {
    for (int64_t spins = 1; !done(); ++spins)
      if (spins % 1024 == 0) {
        if (stopped()) return;
        sched_yield();
      }
  }

  // Calls `use(i)` once for each i < count, on whichever thread is free, and returns when all are done. They are begun
  // in rising order, so whoever waits for a smaller i waits for a thread that runs.
  template <class Use>
  void share(int64_t count, Use use) {
    const auto take = [&] { return __atomic_fetch_add(&team.taken, 1, __ATOMIC_RELAXED) - before; };
    for (int64_t i = take(); i < count && !stopped(); i = take()) use(i);
    before += count + size;  // each thread took one too many
    expected += size;
    __atomic_fetch_add(&team.arrived, 1, __ATOMIC_RELEASE);
    if (index == 0) wait_until([&] { return __atomic_load_n(&team.arrived, __ATOMIC_ACQUIRE) >= expected; });
    team.wait();
  }
};

// Runs `work(member)` on up to `threads` threads, the caller's among them; false if it gave up. `work` must not throw:
// nobody could catch it.
template <class Work>
bool parallel(int64_t threads, bool (*interrupted)(), Work work) {
  Team team(threads, interrupted);
#if defined(__SANITIZE_THREAD__)
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; ++i) others.emplace_back([&, i] { work(Member{team, i, threads}); });
  work(Member{team, 0, threads});
  for (std::thread& other : others) other.join();
#else
#pragma omp parallel num_threads(threads)
  work(Member{team, omp_get_thread_num(), omp_get_num_threads()});
#endif
  return !team.stopped;
}

}  // namespace gloria::GLORIA_ISA
