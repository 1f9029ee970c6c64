"""The fused path: the plain path's numbers, with as few and as full kernels as can be.

One kernel, or one pair of forward and backward, a file; each has its plain twin in the tests. Rows
are flattened: N tokens, all of a micro-batch. Where a matrix of activations goes into a product
with LoRA it is *wide*: after its columns come `room` more, for the R columns of the low-rank factor
(R is rounded up to 8), so that one product does the work of base and LoRA together. Nothing here
knows Lightning, only from_peft.py knows PEFT's classes, and what a family does differently is a
row of families.py.
"""
