"""One decoding step as a few hand-written GPU kernels (Triton, Tillet et al. 2019).

A step of one token per row moves every weight through the chip and does little arithmetic with it. PyTorch's operators
would take some twenty launches per layer; here it is seven: multiply (q, k, v), attend, multiply, add and normalize,
multiply (up), multiply (down), add and normalize. No kernel waits for the host, so steps can be captured in a CUDA
graph. The tests compare the kernels with their reference implementations in Triton's interpreter, on a CPU.
"""
