//! What compression lost is added to the next update.

use super::{CompressError, Compressor, Matrix};

/// An update that is to be sent, what is kept for the next one, and what the other side will read.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    /// What goes over the wire.
    pub bytes: Vec<u8>,
    /// What both sides use for client and server state.
    pub decoded: Vec<f32>,
    /// What was lost: client state, to be kept once the round is confirmed.
    pub residual: Vec<f32>,
}

impl Feedback {
    /// Compresses `x + residual` (absent: zero). `residual` is of the last confirmed round.
    ///
    /// # Errors
    /// As for [`Compressor::encode`], and if the residual has another length.
    pub fn compress(
        compressor: Compressor,
        x: &[f32],
        residual: Option<&[f32]>,
        matrices: &[Matrix],
        seed: u64,
    ) -> Result<Self, CompressError> {
        let mut wanted = x.to_vec();
        if let Some(residual) = residual {
            if residual.len() != x.len() {
                let detail = format!("a residual of {} scalars for {}", residual.len(), x.len());
                return Err(CompressError::Bytes(detail));
            }
            crate::axpy(&mut wanted, 1.0, residual);
        }
        let bytes = compressor.encode(&wanted, matrices, seed)?;
        let decoded = compressor.decode(&bytes, matrices, x.len())?;
        let mut residual = wanted;
        crate::axpy(&mut residual, -1.0, &decoded);
        Ok(Self { bytes, decoded, residual })
    }
}
