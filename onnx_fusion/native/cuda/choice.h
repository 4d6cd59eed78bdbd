// What is known of who makes the products and convolutions of a program, by this process or one
// before it.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "cuda/launches.h"

namespace onnx_fusion::cuda {

constexpr int kMostAlgorithms = 3;  // of a library that are tried

// Is it worth a try?
bool is_worth(const Offer& offer);

// Those of the allowed libraries that can make something among these that is worth a try, are there
// and are trusted. None: nothing is to be tried.
Libraries find_libraries(const std::array<bool, kLibraries>& allowed,
                         const std::vector<Offer>& offers);

// What a choice depends on: the device, the versions, our kernels' texts and what is offered, its
// sizes roughly.
std::string choice_key(const Driver& driver, const Place& place, const Libraries& libraries,
                       const Plan& own);

// What was chosen under this key, by this process or one before it. False if nothing was.
bool recall_choice(const std::string& key, Choice* choice);
void remember_choice(const std::string& key, const Choice& choice);

}  // namespace onnx_fusion::cuda
