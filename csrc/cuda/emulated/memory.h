// Shared memory of a cluster, with what happened to each four bytes of it: who wrote, who read, and which copy is on
// its way.
//
// Order is kept by vector clocks. An agent is a thread, an mbarrier (on behalf of the copies that it counts) or the
// tensor core of a warp. An access is an error unless what it conflicts with is known to have happened before.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace emulated {

using Clock = std::vector<uint32_t>;                                 // of each agent, how far it is known
using Known = std::shared_ptr<const Clock>;                          // shared by all that met at a barrier
constexpr uint32_t kPending = std::numeric_limits<uint32_t>::max();  // when a read ends that nobody has waited for

inline Known joined(const Known& one, const Known& other) {
  if (one == other) return one;
  auto clock = std::make_shared<Clock>(*one);
  for (size_t i = 0; i < clock->size(); ++i) (*clock)[i] = std::max((*clock)[i], (*other)[i]);
  return clock;
}

// Who accesses shared memory, and what it knows. `reads` and `writes`: the earlier accesses that it may rely on; they
// differ for the asynchronous proxy, which sees earlier writes only through a proxy fence.
struct Access {
  int agent, warp;
  uint32_t now;
  const Clock& reads;
  const Clock& writes;
  const char* what;
  bool asynchronous = false;
};

class SharedMemory {
 public:
  static constexpr uint32_t kReserved = 1024;  // sm_90a keeps the first KiB for itself; sm_80 may as well

  SharedMemory(int ctas, int warps, size_t bytes, std::mt19937_64& random)
      : warps_(warps), bytes_(kReserved + (bytes + 3) / 4 * 4) {
    contents_.assign(ctas, std::vector<uint8_t>(bytes_));
    for (auto& cta : contents_)
      for (size_t i = 0; i < cta.size(); i += 4) {
        const uint32_t noise = static_cast<uint32_t>(random());
        std::memcpy(&cta[i], &noise, 4);
      }
    cells_.assign(ctas, std::vector<Cell>(bytes_ / 4));
    readers_.assign(ctas, std::vector<Reader>(bytes_ / 4 * warps));
  }

  std::string error;  // the first one

  void fail(const std::string& what) {
    if (error.empty()) error = what;
  }

  // A full address is the rank of a CTA in its top byte, and an offset.
  uint8_t* at(uint32_t full, uint32_t bytes) {
    const uint32_t offset = full & 0xffffff;
    if (full >> 24 < contents_.size() && offset >= kReserved && offset + bytes <= bytes_)
      return &contents_[full >> 24][offset];
    fail("an access outside of shared memory" + place(full));
    return nowhere_;
  }

  void read(uint32_t full, uint32_t bytes, const Access& by) {
    at(full, bytes);
    each(full, bytes, [&](uint32_t address, Cell& cell, Reader* readers) {
      if (cell.barrier) refuse(by, "reads an mbarrier", address);
      if (cell.flight) refuse(by, "reads what a copy under way writes", address);
      if (cell.writer < 0) refuse(by, "reads what nobody wrote", address);
      if (cell.writer >= 0 && cell.writer != by.agent && by.writes[cell.writer] < cell.written)
        refuse(by, "races with a write of " + who(cell.writer, cell.asynchronous), address);
      // The asynchronous proxy does not see what its own thread wrote either, before a fence.
      if (cell.writer == by.agent && by.asynchronous && !cell.asynchronous && by.writes[cell.writer] < cell.written)
        refuse(by, "races with a write of its own thread", address);
      if (readers[by.warp].when != kPending) readers[by.warp] = {by.agent, by.now};
    });
  }

  void check_write(uint32_t full, uint32_t bytes, const Access& by) {
    at(full, bytes);
    each(full, bytes, [&](uint32_t address, Cell& cell, Reader* readers) {
      if (cell.barrier) refuse(by, "overwrites an mbarrier", address);
      if (cell.flight) refuse(by, "overwrites what a copy under way writes", address);
      if (cell.writer >= 0 && cell.writer != by.agent && by.writes[cell.writer] < cell.written)
        refuse(by, "races with an earlier write of " + who(cell.writer, cell.asynchronous), address);
      for (int warp = 0; warp < warps_; ++warp) {
        const Reader& reader = readers[warp];
        if (reader.agent < 0 || (reader.agent == by.agent && reader.when != kPending)) continue;
        if (reader.when == kPending || by.reads[reader.agent] < reader.when)
          refuse(by, std::string("races with a read of ") + who(reader.agent, reader.when == kPending), address);
      }
    });
  }

  void written(uint32_t full, uint32_t bytes, int agent, uint32_t now, bool asynchronous) {
    each(full, bytes, [&](uint32_t, Cell& cell, Reader* readers) {
      cell.writer = agent, cell.written = now, cell.flight = 0, cell.asynchronous = asynchronous;
      std::fill(readers, readers + warps_, Reader{});
    });
  }

  void take_off(uint32_t full, uint32_t bytes, int flight) {
    each(full, bytes, [&](uint32_t, Cell& cell, Reader*) { cell.flight = flight; });
  }

  void make_barrier(uint32_t full) {
    each(full, 8, [](uint32_t, Cell& cell, Reader*) { cell.barrier = true; });
  }

  // The reads of a warp's tensor core are over, or not known to be.
  void settle_read(uint32_t full, uint32_t bytes, int warp, int agent, uint32_t when) {
    each(full, bytes, [&](uint32_t, Cell&, Reader* readers) { readers[warp] = {agent, when}; });
  }

  static std::string place(uint32_t full) { return " at shared offset " + std::to_string(full & 0xffffff); }

 private:
  struct Cell {
    int32_t writer = -1;
    uint32_t written = 0;
    int32_t flight = 0;
    bool asynchronous = false, barrier = false;
  };
  struct Reader {  // the last of each warp; the others are not remembered
    int32_t agent = -1;
    uint32_t when = 0;
  };

  template <class Do>
  void each(uint32_t full, uint32_t bytes, Do&& act) {
    if (!error.empty()) return;
    const uint32_t cta = full >> 24;
    for (uint32_t offset = full & 0xfffffc; offset < (full & 0xffffff) + bytes; offset += 4)
      act(offset, cells_[cta][offset / 4], &readers_[cta][static_cast<size_t>(offset) / 4 * warps_]);
  }
  void refuse(const Access& by, const std::string& why, uint32_t address) {
    fail(std::string(by.what) + " " + why + place(address));
  }
  static std::string who(int agent, bool asynchronous) {
    return "agent " + std::to_string(agent) + (asynchronous ? " (asynchronous)" : "");
  }

  int warps_;
  size_t bytes_;
  std::vector<std::vector<uint8_t>> contents_;
  std::vector<std::vector<Cell>> cells_;
  std::vector<std::vector<Reader>> readers_;
  uint8_t nowhere_[1 << 16];
};

}  // namespace emulated
