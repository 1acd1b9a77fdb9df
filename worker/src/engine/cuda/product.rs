//! Matrix products on a lane, by cuBLAS.

use super::array::Array;
use super::device::DeviceError;
use super::lane::{Lane, blas_error};
use super::placement::Precision;
use crate::engine::EngineError;
use cudarc::cublas::sys as blas_sys;

/// A matrix of a product, row-major with this many scalars from row to row; `turned`: its transpose.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factor<'a> {
    array: &'a Array,
    offset: usize,
    stride: usize,
    turned: bool,
}

impl<'a> Factor<'a> {
    pub(super) fn rows(array: &'a Array, stride: usize) -> Self {
        Self { array, offset: 0, stride, turned: false }
    }

    pub(super) fn columns(array: &'a Array, stride: usize) -> Self {
        Self { turned: true, ..Self::rows(array, stride) }
    }

    /// From this scalar on.
    pub(super) fn from(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    fn pointer(&self) -> u64 {
        self.array.pointer() + (self.offset * self.array.size()) as u64
    }

    fn kind(&self) -> blas_sys::cudaDataType {
        match self.array.size() {
            2 => blas_sys::cudaDataType::CUDA_R_16BF,
            _ => blas_sys::cudaDataType::CUDA_R_32F,
        }
    }

    fn operation(&self) -> blas_sys::cublasOperation_t {
        if self.turned {
            blas_sys::cublasOperation_t::CUBLAS_OP_T
        } else {
            blas_sys::cublasOperation_t::CUBLAS_OP_N
        }
    }
}

impl Lane {
    /// `c = a · b`, or `c += a · b`; a is `m × k`, b `k × n`, c `m × n`, of f32 or (a and b) bfloat16; sums
    /// are in f32.
    pub(super) fn product(
        &self,
        sizes: [usize; 3],
        factors: (Factor<'_>, Factor<'_>),
        (c, add): (Factor<'_>, bool),
    ) -> Result<(), EngineError> {
        self.products(sizes, factors, (c, add), (1, [0; 3]))
    }

    /// As `product`, so many at once, each so many scalars from the last.
    #[allow(unsafe_code, reason = "cuBLAS takes addresses")]
    pub(super) fn products(
        &self,
        [m, n, k]: [usize; 3],
        (a, b): (Factor<'_>, Factor<'_>),
        (c, add): (Factor<'_>, bool),
        (count, apart): (usize, [usize; 3]),
    ) -> Result<(), EngineError> {
        use blas_sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        let wide = a.array.size() == 4 && self.precision() != Precision::F32;
        let compute = if wide { CUBLAS_COMPUTE_32F_FAST_TF32 } else { CUBLAS_COMPUTE_32F };
        let (one, plus) = (1.0f32, if add { 1.0f32 } else { 0.0 });
        self.stream.context().bind_to_thread().map_err(DeviceError::from)?;
        let (a_kind, b_kind, c_kind) = (a.kind(), b.kind(), c.kind());
        let (a_at, b_at, c_at) = (a.pointer() as *const _, b.pointer() as *const _, c.pointer() as *mut _);
        let (one, plus) = ((&raw const one).cast(), (&raw const plus).cast());
        let [m, n, k, a_stride, b_stride, c_stride] =
            [m, n, k, a.stride, b.stride, c.stride].map(|size| size as i32);
        let algorithm = blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        let handle = self.handle.0;
        // Row-major matrices are the transposes of column-major ones: cᵀ = bᵀ aᵀ.
        // SAFETY: sizes, strides and distances are within the arrays: each caller, as above; alpha and beta
        // are read before the call returns.
        let status = unsafe {
            let (a_op, b_op) = (a.operation(), b.operation());
            if count == 1 {
                blas_sys::cublasGemmEx(
                    handle, b_op, a_op, n, m, k, one, b_at, b_kind, b_stride, a_at, a_kind, a_stride, plus,
                    c_at, c_kind, c_stride, compute, algorithm,
                )
            } else {
                let [a_apart, b_apart, c_apart] = apart.map(|distance| distance as i64);
                let count = count as i32;
                blas_sys::cublasGemmStridedBatchedEx(
                    handle, b_op, a_op, n, m, k, one, b_at, b_kind, b_stride, b_apart, a_at, a_kind,
                    a_stride, a_apart, plus, c_at, c_kind, c_stride, c_apart, count, compute, algorithm,
                )
            }
        };
        Ok(status.result().map_err(blas_error)?)
    }
}
