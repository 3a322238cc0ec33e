"""Training on another machine: cases in compact parts, a training that needs torch, numpy and safetensors, and back.

`parts` and `train` import nothing else, so that they run where nothing can be installed
(``python -m m3ae_core.packed``); `pack` and `unpack` belong to the machine that has the cases.
"""
