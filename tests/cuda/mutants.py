"""CUDA kernels with one fault each: every one must be caught, by the emulator or by the scores that it gives."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One replacement in one file, which must occur there once."""

    fault: str
    file: str
    old: str
    new: str


SM80 = "forward_sm80.h"
LOADER80 = "loader_sm80.h"
SM90 = "forward_sm90.h"
RING = "ring_sm90.h"
ROWS = "word_rows.h"
ROWS80 = "word_rows_sm80.h"
ROWS90 = "word_rows_sm90.h"
# What each architecture has for itself, and the kernels around the products.
GRAM, PRODUCTS = "gram_gradient.h", "warp_products.h"
ON_SM80 = (SM80, LOADER80, ROWS80, GRAM, PRODUCTS)
ON_SM90 = (SM90, RING, ROWS90)
SMALL = ("plan.h", "pack.h", "pool.h", "coefficients.h", "gradient.h")
MUTANTS = [
    Mutant(
        "one group of copies too few is waited for", SM80, "wait_copies<kStages - 2>();", "wait_copies<kStages - 1>();"
    ),
    Mutant(
        "no barrier between the copies and the products",
        SM80,
        "    sync_block();\n    loader.next(slot",
        "    loader.next(slot",
    ),
    Mutant("the loader fills the stage that is read", SM80, "slot == 0 ? kStages - 1 : slot - 1", "slot"),
    Mutant(
        "halves of the right fragment are exchanged",
        SM80,
        "lane % 8 + lane / 16 * 8, lane / 8 % 2);",
        "lane % 8 + lane / 8 % 2 * 8, lane / 16);",
    ),
    Mutant(
        "the attention is stored where another row belongs",
        SM80,
        "wide(attention(), region(r), again",
        "wide(attention(), region(r ^ 1), again",
    ),
    Mutant("rows behind the last region keep their attention", SM80, "? 0.f : infinity()", "? 0.f : 0.f"),
    Mutant(
        "sums of warps are read before they are there",
        SM80,
        "    sync_block();\n    if (thread() >= kWords) return;",
        "    if (thread() >= kWords) return;",
    ),
    Mutant(
        "shifts are read before they are there",
        SM80,
        "    sync_block();\n    if (at.pass) rescale_sums<1>",
        "    if (at.pass) rescale_sums<1>",
    ),
    Mutant(
        "sums keep an old shift",
        SM80,
        "    if (at.pass) rescale_sums<1>(first, second, own_shifts(at.pass - 1), own_shifts(at.pass));\n",
        "",
    ),
    Mutant("products keep an old shift", SM80, "if (!kBounded && step && step % kStepsOfPass == 0)", "if (false)"),
    Mutant(
        "the loader does not wait for the attention",
        LOADER80,
        "attention_made || !(ready.left & kWaits)",
        "true",
    ),
    Mutant("late warps never enter a step", SM80, "} else if (!entered) {", "} else if (!entered && !first) {"),
    Mutant(
        "a step is taken for entered that is not",
        SM80,
        "kStages ? 0 : slot + 1, entered = false;",
        "kStages ? 0 : slot + 1, entered = first;",
    ),
    Mutant(
        "steps that waited for the attention are not made up for",
        SM80,
        "for (int i = 0; i < kStages; ++i) make_step",
        "for (int i = 1; i < kStages; ++i) make_step",
    ),
    Mutant(
        "the loader loads a pass twice",
        LOADER80,
        "steps = ready;\n        store_shared(ready_steps(), Steps{});",
        "steps = ready;",
    ),
    Mutant(
        "what a warp left is written over before it is read",
        SM80,
        "    meet();  // what was there has been read\n    store_folded(first",
        "    store_folded(first",
    ),
    Mutant(
        "the product with G stops too early",
        SM80,
        "step * kDepth + k16 * 16 > last_row) continue",
        "step * kDepth + k16 * 16 >= last_row) continue",
    ),
    Mutant("cancelling contexts are trusted", "problem.h", "kTrusted = 0.25f", "kTrusted = 0.f"),
    Mutant(
        "a text is stabilized by its neighbors",
        "attention.h",
        "  over_texts(top, texts, larger);\n",
        "  over_texts(top, {texts.real, ~1u}, larger);\n",
    ),
    Mutant(
        "a text is summed over its neighbors",
        "attention.h",
        "  over_texts(sum, texts, plus);\n",
        "  over_texts(sum, {texts.real, ~1u}, plus);\n",
    ),
    Mutant(
        "lanes of a quad are not all summed",
        "attention.h",
        "      of_each(n, [&](const float* own) { return join(own[n], shuffle_xor(own[n], 2)); });\n",
        "",
    ),
    Mutant(
        "tiles of a long text do not share a level",
        SM80,
        "level(r)->join(all[0])",
        "all[0]",
    ),
    Mutant("halves of a text do not wait for each other", SM80, "    sync_threads(barrier, 64);\n", ""),
    Mutant("halves of a text do not share a sum", SM80, "    if (!shared) return;\n", "    return;\n"),
    Mutant(
        "halves of a text are written over before they are read",
        SM80,
        "    other.levels += turn * kLevelsOfTurn;\n",
        "",
    ),
    Mutant("a text ends at the middle of its tile", SM80, "connected = continues >> kN & 1;", "connected = false;"),
    Mutant("padding is read", "pack.h", "row % p.side < p.lengths[row / p.side]", "row % p.side < p.side"),
    Mutant("a text leaves its tile", "plan.h", "done < all && need <= room", "done < all && room > 0"),
    Mutant(
        "the mean is over the words of a tile",
        "pool.h",
        "p.mean ? static_cast<float>(length) : 1.f",
        "p.mean ? 128.f : 1.f",
    ),
    Mutant(
        "a stage is released before its products are done",
        SM90,
        "      wgmma_wait<1>();\n      ring.release(ring.before());\n",
        "      ring.release(ring.before());\n      wgmma_wait<1>();\n",
    ),
    Mutant(
        "accumulators are read under way",
        SM90,
        "    wgmma_wait<0>(accumulators());\n    ring",
        "    wgmma_wait<1>(accumulators());\n    ring",
    ),
    Mutant(
        "a wait names no accumulators",
        SM90,
        "    wgmma_wait<0>(accumulators());\n    ring",
        "    wgmma_wait<0>();\n    ring",
    ),
    Mutant("no wgmma.fence", SM90, "    wgmma_fence();\n", ""),
    Mutant(
        "the producer does not wait for an empty stage",
        RING,
        "    barrier_wait(emptied(slot), parity ^ 1);\n    bar",
        "    bar",
    ),
    Mutant(
        "the producer waits for the wrong parity",
        RING,
        "parity ^ 1);\n    barrier_expect",
        "parity);\n    barrier_expect",
    ),
    Mutant(
        "the consumers do not wait for a full stage",
        SM90,
        "    ring.wait();\n    if (!kBounded",
        "    if (!kBounded",
    ),
    Mutant("a stage is empty for its own CTA alone", RING, "warps * kCtas);", "warps);"),
    Mutant(
        "a CTA ends while another copies into it", RING, "i < kStages; ++i) barrier_wait(", "i < 0; ++i) barrier_wait("
    ),
    Mutant("no barrier of the cluster behind mbarrier.init", RING, "    sync_cluster();\n", "    sync_block();\n"),
    Mutant("no fence behind mbarrier.init", RING, "      fence_barrier_init();\n", ""),
    Mutant("descriptors move by the wrong step", SM90, "left + k16 * 2,", "left + k16 * 4,"),
    Mutant(
        "fewer bytes are expected than come",
        SM90,
        "full = ring.expect(kStage);",
        "full = ring.expect(kStage - kRow);",
    ),
    Mutant("the parity never turns", RING, "slot = 0, parity ^= 1;", "slot = 0;"),
    Mutant("no proxy fence between the attention and its product", SM90, "    fence_proxy_async();", "    "),
    Mutant(
        "no barrier between the attention and its product",
        SM90,
        "wgmma reads it\n    sync();\n",
        "wgmma reads it\n",
    ),
    Mutant(
        "a product ahead does not wait for the attention",
        SM90,
        "          attention_is_there();  // that of the first pass\n",
        "",
    ),
    Mutant("blocks right of the diagonal are not released", SM90, "if (kNext == Next::kForm && !kKeep)", "if (false)"),
    Mutant("the next product is begun by the last step of this", SM90, "form = of_form, step = 0;", "form = of_form;"),
    Mutant(
        "no barrier before maxima are stored",
        SM90,
        "    sync();  // what was there has been read\n    store_folded(best",
        "    store_folded(best",
    ),
    Mutant(
        "no barrier before sums are stored",
        SM90,
        "    sync();  // what was there has been read\n    store_folded(aff",
        "    store_folded(aff",
    ),
    Mutant("sums are joined in attention that is still read", SM90, "kEarly ? kEnd : kEnd - kJoined", "kEnd - kJoined"),
    Mutant("the attention is stored without its swizzle", SM90, "((chunk ^ (word & 7)) << 4)", "(chunk << 4)"),
    Mutant(
        "the regions are not shared in the cluster",
        SM90,
        "region, item.image, full, kAllCtas);",
        "region, item.image, full);",
    ),
    # Words as rows.
    Mutant("regions behind the last are seen", ROWS, "  hide(s, real);\n", ""),
    Mutant("lanes of a quad are not all joined", ROWS, "mask < 4; mask *= 2", "mask < 2; mask *= 2"),
    Mutant("sums keep an old maximum", ROWS, "sum = rounded_product(sum, f), ", ""),
    Mutant("what was lower than the hard maximum remains", ROWS, "(top == best ? 1.f : 0.f)", "1.f"),
    Mutant("both tiles of a pair are one", ROWS, "place = 2 * item.run + which", "place = 2 * item.run"),
    Mutant("what is kept stands at other words", ROWS, "at[8] = static_cast<uint16_t>(pair >> 16)", "at[8] = at[0]"),
    Mutant(
        "a group of copies too few is waited for", ROWS80, "wait_copies<kStages - 2>();", "wait_copies<kStages - 1>();"
    ),
    Mutant("the copies fill the stage that is read", ROWS80, "slot == 0 ? kStages - 1 : slot - 1", "slot"),
    Mutant(
        "parts of a word are read before they are there", ROWS80, "    sync_block();\n    Seen all;", "    Seen all;"
    ),
    Mutant(
        "words and regions of the wrong rows are multiplied",
        PRODUCTS,
        "lane % 8 + lane / 16 * 8, k16",
        "lane % 16, k16",
    ),
    Mutant("a stage is given back too early", ROWS90, "      wgmma_wait<1>();\n", ""),
    Mutant("sums under way are read", ROWS90, "wgmma_wait<0>(s[0], s[1]);", "wgmma_wait<1>(s[0], s[1]);"),
    Mutant("the second half of the regions is left out", ROWS90, "if (halves == 2)", "if (halves == 3)"),
    Mutant("both halves are always expected", ROWS90, "halves(length, first) * kShare", "2 * kShare"),
    Mutant("a CTA keeps its half of the regions", ROWS90, "item.image, full, kAllCtas);", "item.image, full);"),
    # Backward.
    Mutant("backward takes half of G", SM80, "full = kKeep || direct;", "full = direct;"),
    Mutant(
        "the producer fetches half of G for backward",
        SM90,
        "k < (kKeep ? passes : pass + 1) * kConsumers; ++k) {",
        "k < (pass + 1) * kConsumers; ++k) {",
    ),
    Mutant(
        "sums are divided by before they are there",
        SM90,
        "          sync();\n        }\n        if (!kForm",
        "        }\n        if (!kForm",
    ),
    Mutant("the form of all of G keeps an old shift", SM80, "rescale_sums<kKeep ? 1 : 2, 2>", "rescale_sums<2, 2>"),
    Mutant(
        "the attention sees other affinities than its gradient",
        "attention.h",
        "      x = low<Float16>(pair), y = high<Float16>(pair);\n",
        "",
    ),
    Mutant(
        "backward trusts the norms of cancelling contexts",
        "attention.h",
        "if (kKeep) statistic(p, kContextNorm",
        "if (kKeep && p.norm == Norm::kGram) statistic(p, kContextNorm",
    ),
    Mutant(
        "the gradient of a pool that is divided is scaled",
        "coefficients.h",
        "p.pool == Pool::kMax || p.divide ?",
        "p.pool == Pool::kMax ?",
    ),
    Mutant("the mean of the affinities stays", "gradient.h", "(r.s[i] - means[i])", "r.s[i]"),
    Mutant("the mean of G a stays", "gradient.h", "(products[i] - product_means[i])", "products[i]"),
    Mutant("the norm over words takes in the text before", "gradient.h", "slot - step >= first", "slot - step >= 0"),
    Mutant("a slot has the sum up to itself", "gradient.h", "shuffle(v, lane - slot + last)", "shuffle(v, lane)"),
    Mutant("only the last tile of a long text counts", "gradient.h", "inner += r.inner;", "inner = r.inner;"),
    Mutant("padding behind the regions has attention", "gradient.h", "row >= length ? 0.f : ", ""),
    Mutant("the attention lacks its weight", GRAM, "product_of_halves(a[m][i], w[i / 2])", "a[m][i]"),
    Mutant("halves of the weights are exchanged", GRAM, "w[i / 2]", "w[1 - i / 2]"),
    Mutant("every step has the weights of the first", GRAM, "    weights += kDepth;\n", ""),
    Mutant("copies are not waited for", GRAM, "      wait_copies<0>();\n", ""),
    Mutant("the copies fill a stage that is read", GRAM, "      sync_block();\n", ""),
    Mutant("a diagonal block reads what is not copied", GRAM, "at.down == at.across ? 0 : kOperand", "kOperand"),
    Mutant("blocks of other rows are added up", GRAM, "found.across -= ++found.down", "++found.down, --found.across"),
    Mutant("the gradient of G lacks its scale", GRAM, "p.factors[at.image]", "1.f"),
]
# Changes that are none: they must pass, or the checks catch too much.
CONTROLS = [
    Mutant(
        "another swizzle of the same kind",
        LOADER80,
        "((chunk ^ (row & 7)) << 4)",
        "((chunk ^ (7 - (row & 7))) << 4)",
    ),
    Mutant(
        "an added barrier",
        SM80,
        "    wait_copies<kStages - 2>();\n",
        "    wait_copies<kStages - 2>();\n    sync_block();\n",
    ),
]
