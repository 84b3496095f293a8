// The kernels of one instruction set: this file is compiled once for each, with GLORIA_ISA naming it and GLORIA_OPERAND
// its products.
#include "engine.h"

#include "backward.h"
#include "exponential.h"
#include "forward.h"

namespace gloria {

#define GLORIA_ENGINE_(isa) engine_##isa
#define GLORIA_ENGINE(isa) GLORIA_ENGINE_(isa)
#define GLORIA_NAME_(isa) #isa
#define GLORIA_NAME(isa) GLORIA_NAME_(isa)

Engine GLORIA_ENGINE(GLORIA_ISA)() {
  using Operand = GLORIA_ISA::GLORIA_OPERAND;
  return {GLORIA_NAME(GLORIA_ISA), Operand::kPad, GLORIA_ISA::forward<Operand>, GLORIA_ISA::backward<Operand>,
          GLORIA_ISA::exponential<Operand>};
}

}  // namespace gloria
