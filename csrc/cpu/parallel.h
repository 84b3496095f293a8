// A team of threads and the work it shares: all that the kernels ask of OpenMP.
//
// ThreadSanitizer does not see how gcc's OpenMP runtime orders its threads and would report races that are none. A build under it
// starts plain threads instead; the sharing of work, where a race would be ours, is the same.
#pragma once

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
  int64_t taken = 0;  // items handed out, in all shares
#if defined(__SANITIZE_THREAD__)
  pthread_barrier_t barrier;
  explicit Team(int64_t threads) { pthread_barrier_init(&barrier, nullptr, static_cast<unsigned>(threads)); }
  ~Team() { pthread_barrier_destroy(&barrier); }
  void wait() { pthread_barrier_wait(&barrier); }
#else
  void wait() {
#pragma omp barrier
  }
#endif
};

// One thread of a team. Each must come to every `share`.
struct Member {
  Team& team;
  int64_t index, size;
  int64_t before = 0;  // items handed out in the shares before this one

  // Calls `use(i)` once for each i < count, on whichever thread is free, and returns when all are done. They are begun in rising
  // order, so whoever waits for a smaller i waits for a thread that runs.
  template <class Use>
  void share(int64_t count, Use use) {
    const auto take = [&] { return __atomic_fetch_add(&team.taken, 1, __ATOMIC_RELAXED) - before; };
    for (int64_t i = take(); i < count; i = take()) use(i);
    before += count + size;  // each thread took one too many
    team.wait();
  }
};

// Runs `work(member)` on up to `threads` threads, the caller's among them. `work` must not throw: nobody could catch it.
template <class Work>
void parallel(int64_t threads, Work work) {
#if defined(__SANITIZE_THREAD__)
  Team team(threads);
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; ++i) others.emplace_back([&, i] { work(Member{team, i, threads}); });
  work(Member{team, 0, threads});
  for (std::thread& other : others) other.join();
#else
  Team team;
#pragma omp parallel num_threads(threads)
  work(Member{team, omp_get_thread_num(), omp_get_num_threads()});
#endif
}

}  // namespace gloria::GLORIA_ISA
